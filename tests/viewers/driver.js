// Opens pages in headless Chromium and takes pictures: node driver.js < STEPS.json, with playwright-core in NODE_PATH.
//
// STEPS: {chromium, pages: [{url, picture, width, height, settle_ms?, ready?, clicks?: [text], thumbnail?: text}]}.
// Prints one line of JSON a page: {picture, errors: [console errors]}.
const { chromium } = require('playwright-core');
const FLAGS = [
  '--headless=new', '--no-sandbox', '--use-angle=swiftshader', '--enable-unsafe-swiftshader', '--ignore-gpu-blocklist',
  '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync',
];

async function take(context, step) {
  const errors = [];
  const page = await context.newPage();
  await page.setViewportSize({ width: step.width, height: step.height });
  page.on('console', message => { if (message.type() === 'error' || process.env.ALL) errors.push(message.text().slice(0, 600)); });
  page.on('pageerror', error => errors.push(String(error).slice(0, 300)));
  await page.goto(step.url, { waitUntil: 'load', timeout: 120000 });
  if (step.ready) await page.waitForSelector(step.ready, { timeout: 120000 });
  await page.waitForTimeout(step.settle_ms || 0);
  for (const text of step.clicks || []) {
    const found = page.getByText(text, { exact: true });
    if (await found.count()) await found.first().click();
    await page.waitForTimeout(500);
  }
  if (step.thumbnail) {
    const found = page.locator('[data-cy^="study-browser-thumbnail"]', { hasText: step.thumbnail });
    if (await found.count()) await found.first().dblclick();
    else errors.push(`nothing is called ${step.thumbnail} in the study browser`);
    await page.waitForTimeout(step.settle_ms || 0);
  }
  await page.screenshot({ path: step.picture });
  await page.close();
  console.log(JSON.stringify({ picture: step.picture, errors }));
}

(async () => {
  const steps = JSON.parse(require('fs').readFileSync(0, 'utf8'));
  const browser = await chromium.launch({ executablePath: steps.chromium, args: FLAGS });
  const context = await browser.newContext(); // one, so that the viewer's 17 MB of code are read once
  for (const step of steps.pages) await take(context, step);
  await browser.close();
})().catch(error => { console.error(String(error)); process.exit(1); });
