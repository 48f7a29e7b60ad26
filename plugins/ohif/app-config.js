// The recommended configuration of the OHIF viewer for results of dicom_gam: put it in place of OHIF's own
// app-config.js. It needs no rebuilt viewer: OHIF takes extensions as plain objects from here.
//
// Its hanging protocol `verified-radiograph` opens every verified image beside its own overlay, with the report (its
// outline on the image, its words and scores) below the overlay. Which overlay belongs to which image is read from the
// overlay's Source Image Sequence and never guessed from names or order: in a study of two images a wrong pair would be
// a wrong verdict. The verdicts of the study stand at the top of the viewer all the time.

const EXTENSION = 'dicom-gam.verified-radiograph';
const PROTOCOL = 'verified-radiograph';
const OVERLAY_IMAGE_TYPE = 'GRADCAM'; // the fourth value of Image Type
const OURS = '99DGAM'; // the coding scheme of our reports
const COLOURS = { // background and ink, as in the overlay's banner
  PASS: ['#005c46', '#ffffff'], FAIL: ['#9c0810', '#ffffff'], REJECT: ['#ffb000', '#000000'],
  UNCLEAR: ['#ffffff', '#000000'],
};
const OUTLINE_STYLE = { color: 'rgb(0, 192, 208)', lineDash: '', textBoxLinkLineWidth: '0' };

// OHIF's services and commands, and its React, which it hands to the maker of the logo: see `window.config`.
let services = null;
let commands = null;
let extensions = null;
let react = null;

const listed = value => (Array.isArray(value) ? value : value ? [value] : []);
const timeOf = instance => `${instance.InstanceCreationDate || ''}${instance.InstanceCreationTime || ''}`;

function showing(displaySets, sopInstanceUID) {
  for (const displaySet of displaySets) {
    const index = listed(displaySet.instances).findIndex(instance => instance.SOPInstanceUID === sopInstanceUID);
    if (index >= 0) return { uid: displaySet.displaySetInstanceUID, index };
  }
  return null;
}

const isOverlay = instance => listed(instance && instance.ImageType).includes(OVERLAY_IMAGE_TYPE);
const holds = (item, valueType) => item.ValueType === valueType
  || listed(item.ContentSequence).some(child => holds(child, valueType));

// ---- The report

const codeOf = sequence => listed(sequence)[0] || {};
const conceptOf = item => codeOf(item.ConceptNameCodeSequence);
const isOurs = (item, codeValue) => (
  conceptOf(item).CodingSchemeDesignator === OURS && conceptOf(item).CodeValue === codeValue
);
const itemsIn = item => listed(item && item.ContentSequence).flatMap(child => [child, ...itemsIn(child)]);
const saidBy = (items, codeValue) => {
  const item = items.find(each => isOurs(each, codeValue));
  return item && codeOf(item.ConceptCodeSequence).CodeValue;
};
const verdictOfReport = instance => saidBy(itemsIn(instance), 'VERDICT');
const verdictOfOverlay = instance => (/ - (PASS|FAIL|REJECT)$/.exec(instance.SeriesDescription || '') || [])[1];

// The report as the node wrote it, of a display set that `prepareReport` has changed.
const reportOf = displaySet => displaySet && displaySet.storedReport;

// A verdict that two objects state differently, or that none states, is no verdict.
function verdictOf(overlay, report) {
  const said = [overlay && verdictOfOverlay(overlay), report && verdictOfReport(report)].filter(Boolean);
  return said.length && said.every(each => each === said[0]) && COLOURS[said[0]] ? said[0] : 'UNCLEAR';
}

// OHIF's report viewport breaks on measurement groups without coordinates (the first one it meets, in 3.12), so it gets
// the outline only, without its figures, which it would write across the image; a report without any outline opens as
// text, with everything. The stored report stays as it is.
function prepareReport(displaySet) {
  const instance = displaySet.instance;
  const isMeasurements = item => conceptOf(item).CodeValue === '126010'; // DCM
  const outlineOnly = group => ({
    ...group, ContentSequence: listed(group.ContentSequence).filter(item => item.ValueType !== 'NUM'),
  });
  const content = listed(instance.ContentSequence);
  if (content.some(item => holds(item, 'SCOORD'))) {
    const groups = item => listed(item.ContentSequence).filter(group => holds(group, 'SCOORD')).map(outlineOnly);
    const prepared = content.map(item => (isMeasurements(item) ? { ...item, ContentSequence: groups(item) } : item));
    // Defined, not assigned: OHIF's instances pass assignments on to the stored one.
    displaySet.instance = Object.create(instance, { ContentSequence: { value: prepared, enumerable: true } });
  } else {
    displaySet.isImagingMeasurementReport = false;
  }
  displaySet.storedReport = instance;
  delete displaySet.addInstances; // a report that comes later gets a display set of its own
}

// OHIF makes one display set of all reports in a series, and shows the last one only. Ours get one each: two images of
// one series have their reports in one series. Reports of others are left to OHIF.
const REPORT_HANDLER = {
  name: 'report',
  sopClassUids: ['1.2.840.10008.5.1.4.1.1.88.33', '1.2.840.10008.5.1.4.1.1.88.34'], // Comprehensive SR, and 3D
  getDisplaySetsFromSeries: instances => {
    const handler = extensions.getModuleEntry('@ohif/extension-cornerstone-dicom-sr.sopClassHandlerModule.dicom-sr');
    const shown = instance => services.displaySetService
      .getDisplaySetForSOPInstanceUID(instance.SOPInstanceUID, instance.SeriesInstanceUID);
    const made = instances.filter(instance => verdictOfReport(instance) && !shown(instance))
      .flatMap(instance => handler.getDisplaySetsFromSeries([instance]));
    made.forEach(prepareReport);
    return made;
  },
};

// ---- What belongs together

// OHIF draws a segmentation by its place in the patient, which radiographs don't have: without it, its viewport breaks
// (3.12). So such a region is marked as one that OHIF can't open; the report holds its outline.
function markRegion(displaySet) {
  const { SharedFunctionalGroupsSequence, PerFrameFunctionalGroupsSequence } = displaySet.instance || {};
  const groups = [...listed(SharedFunctionalGroupsSequence), ...listed(PerFrameFunctionalGroupsSequence)];
  if (!groups.some(group => group.PlaneOrientationSequence)) displaySet.unsupported = true;
}

function namesInside(value, sopInstanceUID) {
  if (!value || typeof value !== 'object') return false;
  return value.ReferencedSOPInstanceUID === sopInstanceUID
    || Object.keys(value).some(key => namesInside(value[key], sopInstanceUID));
}

// Every overlay with its source image and its report, as far as they are here, and every report without an overlay;
// of an image that was processed again, the newest first.
function resultsIn(displaySets) {
  const images = displaySets.filter(displaySet => displaySet.numImageFrames > 0);
  const reports = displaySets.filter(reportOf);
  const found = [];
  for (const displaySet of images) {
    listed(displaySet.instances).forEach((overlay, index) => {
      if (!isOverlay(overlay)) return;
      const sourceUIDs = listed(overlay.SourceImageSequence).map(item => item.ReferencedSOPInstanceUID);
      const report = reports.find(candidate => namesInside(
        reportOf(candidate).CurrentRequestedProcedureEvidenceSequence, overlay.SOPInstanceUID,
      ));
      found.push({
        source: sourceUIDs.map(uid => showing(images, uid)).find(Boolean), sourceUID: sourceUIDs[0],
        overlay: { uid: displaySet.displaySetInstanceUID, index },
        report: report && { uid: report.displaySetInstanceUID, index: 0 },
        verdict: verdictOf(overlay, reportOf(report)), time: timeOf(overlay), id: overlay.SOPInstanceUID,
      });
    });
  }
  const paired = found.map(result => result.report && result.report.uid);
  reports.filter(report => !paired.includes(report.displaySetInstanceUID)).map(reportOf).forEach(report => found.push({
    verdict: verdictOf(null, report), time: timeOf(report), id: report.SOPInstanceUID,
  }));
  found.sort((one, other) => (one.time < other.time ? 1 : one.time > other.time ? -1 : 0));
  found.forEach((result, place) => {
    const newer = found.slice(0, place);
    result.superseded = Boolean(result.sourceUID) && newer.some(({ sourceUID }) => sourceUID === result.sourceUID);
  });
  return found;
}

// ---- The hanging protocol

// The whole image, at the right of its viewport: the report's words stand at the left.
const AT_THE_RIGHT = {
  imageArea: [1, 1], imageCanvasPoint: { imagePoint: [1, 0.5], canvasPoint: [1, 0.5] }, storeAsInitialCamera: true,
};

function viewport(number, role) {
  return {
    viewportOptions: {
      viewportId: role === 'source' && number === 0 ? 'default' : `${role}-${number}`,
      viewportType: 'stack', toolGroupId: 'default', allowUnmatchedView: true,
    },
    displaySets: [{ id: `${role}-${number}` }],
  };
}

function stage(image, number, total) {
  const roles = image.report ? ['source', 'overlay', 'report'] : ['source', 'overlay'];
  const right = image.report ? 0.5 : 1;
  const viewports = roles.map(role => viewport(number, role));
  roles.forEach((role, place) => {
    const { viewportOptions } = viewports[place];
    if (role === 'report') viewportOptions.displayArea = AT_THE_RIGHT;
    else viewportOptions.initialImageOptions = { index: image[role].index };
  });
  return {
    id: image.id,
    name: `Verified image ${number + 1} of ${total}${image.superseded ? ', earlier result' : ''}`,
    viewportStructure: {
      layoutType: 'grid',
      properties: {
        rows: image.report ? 2 : 1, columns: 2,
        layoutOptions: [
          { x: 0, y: 0, width: 0.5, height: 1 },
          { x: 0.5, y: 0, width: 0.5, height: right },
          { x: 0.5, y: 0.5, width: 0.5, height: 0.5 },
        ].slice(0, roles.length),
      },
    },
    viewports,
  };
}

const NOTHING_VERIFIED = {
  name: 'Nothing verified',
  viewportStructure: { layoutType: 'grid', properties: { rows: 1, columns: 1 } },
  viewports: [{ viewportOptions: { viewportId: 'default', toolGroupId: 'default' }, displaySets: [] }],
};

function hangingOf(displaySets) {
  displaySets.filter(displaySet => displaySet.Modality === 'SEG').forEach(markRegion);
  const results = resultsIn(displaySets);
  const images = results.filter(result => result.source);
  const displaySetSelectors = {};
  images.forEach((image, number) => ['source', 'overlay', 'report'].filter(role => image[role]).forEach(role => {
    displaySetSelectors[`${role}-${number}`] = {
      allowUnmatchedView: true, // a reader may put another image in its place
      seriesMatchingRules: [
        { attribute: 'displaySetInstanceUID', required: true, constraint: { equals: { value: image[role].uid } } },
      ],
    };
  }));
  return {
    results,
    displaySetSelectors,
    protocolMatchingRules: images.length
      ? [{ weight: 100, attribute: 'StudyInstanceUID', constraint: { notNull: true } }] : [],
    stages: images.length ? images.map((image, number) => stage(image, number, images.length)) : [NOTHING_VERIFIED],
  };
}

// Of the study that is open only: OHIF loads the patient's other studies into the same list.
let hanging = null;
function hangingNow() {
  const { displaySetService, hangingProtocolService } = services;
  const study = hangingProtocolService.activeStudy && hangingProtocolService.activeStudy.StudyInstanceUID;
  const displaySets = displaySetService.getActiveDisplaySets()
    .filter(displaySet => !study || displaySet.StudyInstanceUID === study);
  const key = displaySets.map(each => `${each.displaySetInstanceUID} ${listed(each.instances).length}`).join();
  if (!hanging || hanging.key !== key) hanging = { key, ...hangingOf(displaySets) };
  return hanging;
}

// Computed from the study that is open. OHIF also takes a function for this, but then can't go to the next stage (3.12).
const VERIFIED_RADIOGRAPH = {
  id: PROTOCOL,
  locked: true,
  name: 'Verified radiograph',
  toolGroupIds: ['default'],
  numberOfPriorsReferenced: 0,
  callbacks: {
    onProtocolEnter: [{ commandName: 'styleOurOutlines' }],
    onProtocolExit: [{ commandName: 'styleOutlinesAsOHIF' }],
  },
  defaultViewport: {
    viewportOptions: { viewportType: 'stack', toolGroupId: 'default', allowUnmatchedView: true },
    displaySets: [],
  },
  get protocolMatchingRules() { return hangingNow().protocolMatchingRules; },
  get displaySetSelectors() { return hangingNow().displaySetSelectors; },
  get stages() { return hangingNow().stages; },
};

// OHIF writes into the corners of a viewport, where the overlay has its banner and its footer.
const offOurOverlay = items => listed(items).map(item => ({
  ...item,
  condition: shown => !isOverlay(shown.instance || shown.referenceInstance) && (!item.condition || item.condition(shown)),
}));

// ---- What the reader sees of the verdict

const chipStyle = verdict => ({
  background: COLOURS[verdict][0], color: COLOURS[verdict][1], padding: '2px 8px', borderRadius: '4px', fontWeight: 700,
});

const LOGO = { // in the list, and on studies without results
  src: `${window.PUBLIC_URL || '/'}ohif-logo.svg`, alt: 'OHIF', style: { height: '28px' },
};
const MOST_CHIPS = 4; // more would run into the toolbar

// One chip a result; of many results, one a verdict, with their number.
function chipsOf(results) {
  const many = results.length > MOST_CHIPS;
  const firstOfItsVerdict = ({ verdict }, place) => results.findIndex(other => other.verdict === verdict) === place;
  const shown = many ? results.filter(firstOfItsVerdict) : results;
  return shown.map((result, place) => ({
    ...result,
    text: many ? `${results.filter(other => other.verdict === result.verdict).length} \u00d7 ${result.verdict}`
      : `${results.length > 1 ? `${place + 1}: ` : ''}${result.verdict}${result.superseded ? ' (earlier)' : ''}`,
  }));
}

function chipButton({ id, verdict, source, superseded, text }, stageId) {
  return react.createElement('button', {
    key: id, type: 'button', disabled: !source, 'data-verdict': verdict, 'aria-pressed': id === stageId,
    title: source ? 'Open this image with its overlay and report' : 'The image is not in this study',
    style: {
      ...chipStyle(verdict), opacity: superseded ? 0.6 : 1, outline: id === stageId ? '2px solid #ffffff' : 'none',
    },
    onClick: event => {
      event.stopPropagation(); // the logo's place leads back to the work list
      commands.runCommand('setHangingProtocol', { protocolId: PROTOCOL, stageId: id });
    },
  }, text);
}

// The verdicts of the open study stand in the logo's place; each opens its image by a click.
function logoOrVerdicts() {
  const [, changed] = react.useState(0);
  react.useEffect(() => {
    const { displaySetService, hangingProtocolService } = services;
    const subscriptions = [displaySetService, hangingProtocolService].flatMap(service => Object.values(service.EVENTS)
      .map(event => service.subscribe(event, () => changed(count => count + 1))));
    return () => subscriptions.forEach(subscription => subscription.unsubscribe());
  }, []);
  const { results } = hangingNow();
  if (!results.length) return react.createElement('img', LOGO);
  const { stageId } = services.hangingProtocolService.getState() || {};
  return react.createElement('div', {
    'data-cy': 'ai-verification', role: 'status', onClick: event => event.stopPropagation(),
    style: {
      display: 'flex', alignItems: 'center', gap: '8px', whiteSpace: 'nowrap',
      fontSize: '13px', color: '#ffffff', cursor: 'default',
    },
  },
  react.createElement('span', null, results.length > 1 ? 'AI' : 'AI verification'),
  ...chipsOf(results).map(chip => chipButton(chip, results.length > 1 && stageId)));
}

function logoWithVerdicts(React) {
  react = React;
  return services ? React.createElement(logoOrVerdicts) : React.createElement('img', LOGO);
}

const short = value => (Number.isFinite(Number(value)) ? String(Number(Number(value).toPrecision(3))) : '?');
const numberIn = item => codeOf(item.MeasuredValueSequence).NumericValue;

const childrenOf = group => listed(group.ContentSequence);
// A result that had no part in the verdict says so, wherever it stands.
const resultIn = (group, result) => (
  result && saidBy(childrenOf(group), 'RESULT') === 'ADVISORY' ? `${result}, advisory only` : result || ''
);

// A score of the report: its name, value, limit and result, as words.
function scoreRow(item, group) {
  const [least, largest, p] = ['THR_MIN', 'THR_MAX', 'P_VALUE']
    .map(codeValue => itemsIn(item).find(each => isOurs(each, codeValue))).map(found => found && short(numberIn(found)));
  return [
    conceptOf(item).CodeMeaning, short(numberIn(item)), least ? `\u2265 ${least}` : largest ? `\u2264 ${largest}` : '',
    p ? `p = ${p}` : '', resultIn(group, saidBy(itemsIn(item), 'RESULT')),
  ];
}

// The report in words: what it says first, every check, every score.
function wordsOf(report) {
  const groups = itemsIn(report).filter(item => conceptOf(item).CodeValue === '125007'); // DCM, Measurement Group
  const checks = groups.flatMap(group => childrenOf(group)
    .filter(item => item.ValueType === 'CODE' && conceptOf(item).CodingSchemeDesignator === OURS)
    .filter(item => /_CHECK$/.test(conceptOf(item).CodeValue))
    .map(item => [conceptOf(item).CodeMeaning, resultIn(group, codeOf(item.ConceptCodeSequence).CodeMeaning)]));
  const observer = itemsIn(report).find(item => conceptOf(item).CodeValue === '121013'); // DCM, Device Observer Name
  return {
    comments: itemsIn(report).filter(item => conceptOf(item).CodeValue === '121106').map(item => item.TextValue), // DCM
    checks,
    scores: groups.flatMap(group => childrenOf(group)
      .filter(item => item.ValueType === 'NUM').map(item => scoreRow(item, group))),
    by: observer ? observer.TextValue : '',
  };
}

const cellOf = (text, column) => react.createElement('td', {
  key: column,
  style: { verticalAlign: 'top', padding: '0 8px 0 0', ...(text === 'FAIL' && { color: '#ff9a9a', fontWeight: 700 }) },
}, text);
const table = rows => react.createElement('table', null, react.createElement(
  'tbody', null, rows.map((row, place) => react.createElement('tr', { key: place }, row.map(cellOf))),
));

const scoreTable = ({ scores }) => react.createElement('div', {
  'data-cy': 'ai-scores', style: { maxHeight: '65vh', overflow: 'auto', fontSize: '13px', color: '#ffffff' },
}, table(scores));

function reportBlock(report) {
  const verdict = verdictOf(null, report);
  const { comments: [headline, ...reasons], checks, scores, by } = wordsOf(report);
  const line = (text, key) => react.createElement('div', { key }, text);
  return react.createElement(
    'div',
    {
      'data-cy': 'ai-report',
      style: {
        width: 'max-content', maxWidth: '14rem', background: 'rgba(0, 0, 0, 0.8)', color: '#ffffff', padding: '4px 8px',
        fontSize: '12px', lineHeight: '16px', textShadow: 'none', whiteSpace: 'normal',
      },
    },
    react.createElement('div', { style: { ...chipStyle(verdict), fontSize: '13px' } }, headline || verdict),
    reasons.map(line), table(checks), line(by, 'by'),
    react.createElement('button', {
      type: 'button', style: { pointerEvents: 'auto', textDecoration: 'underline' }, // all around lets the mouse through
      onClick: () => services.uiModalService.show({
        title: headline || verdict, content: scoreTable, contentProps: { scores }, containerClassName: 'max-w-4xl',
      }),
    }, 'All scores'),
  );
}

// An outline alone doesn't say whether the check was passed, so the report's viewport says it.
function reportIn(viewportId) {
  const { viewportGridService, displaySetService } = services;
  return listed(viewportGridService.getDisplaySetsUIDsForViewport(viewportId))
    .map(uid => reportOf(displaySetService.getDisplaySetByUID(uid))).find(Boolean);
}
const WORDS_OF_REPORT = {
  id: 'WordsOfReport',
  condition: ({ viewportId }) => Boolean(reportIn(viewportId)),
  contentF: ({ viewportId }) => {
    const report = reportIn(viewportId);
    return react ? reportBlock(report) : report.SeriesDescription;
  },
};

// OHIF draws outlines green, whatever the verdict. Ours are drawn as in the overlay while our protocol hangs.
const outlineStyle = style => () => {
  const { cornerstoneTools } = window; // OHIF puts it there
  if (cornerstoneTools) cornerstoneTools.annotation.config.style.setToolGroupToolStyles('SRToolGroup', style);
};

window.config = {
  name: 'dicom_gam',
  routerBasename: '/',
  extensions: [
    {
      id: EXTENSION,
      preRegistration: ({ servicesManager, commandsManager, extensionManager }) => {
        services = servicesManager.services;
        commands = commandsManager;
        extensions = extensionManager;
      },
      getSopClassHandlerModule: () => [REPORT_HANDLER],
      getCommandsModule: () => ({
        definitions: {
          styleOurOutlines: { commandFn: outlineStyle({ DICOMSRDisplay: OUTLINE_STYLE }) },
          styleOutlinesAsOHIF: { commandFn: outlineStyle({}) },
        },
        defaultContext: 'DEFAULT',
      }),
      getHangingProtocolModule: () => [{ name: PROTOCOL, protocol: VERIFIED_RADIOGRAPH }],
    },
  ],
  modes: [],
  // The usual viewer, with OHIF's own protocol for studies that hold no overlay.
  modesConfiguration: {
    '@ohif/mode-longitudinal': {
      hangingProtocol: { $set: [PROTOCOL, 'default'] },
      sopClassHandlers: { $unshift: [`${EXTENSION}.sopClassHandlerModule.${REPORT_HANDLER.name}`] },
    },
  },
  whiteLabeling: { createLogoComponentFn: logoWithVerdicts },
  customizationService: {
    autoCineModalities: { $set: ['US'] }, // OHIF plays OT too, and lays the player over the overlay's banner
    'viewportOverlay.topLeft': { $apply: items => [WORDS_OF_REPORT, ...offOurOverlay(items)] },
    'viewportOverlay.bottomLeft': { $apply: offOurOverlay },
    'viewportOverlay.bottomRight': { $apply: offOurOverlay },
  },
  showStudyList: true,
  maxNumberOfWebWorkers: 3,
  showWarningMessageForCrossOrigin: true,
  showCPUFallbackMessage: true,
  showLoadingIndicator: true,
  strictZSpacingForVolumeViewport: true,
  defaultDataSourceName: 'orthanc',
  dataSources: [
    {
      namespace: '@ohif/extension-default.dataSourcesModule.dicomweb',
      sourceName: 'orthanc',
      configuration: {
        friendlyName: 'Orthanc',
        name: 'orthanc',
        wadoUriRoot: '/wado', // the web server that hands out the viewer passes these two on to Orthanc
        qidoRoot: '/dicom-web',
        wadoRoot: '/dicom-web',
        qidoSupportsIncludeField: false,
        supportsReject: false,
        supportsFuzzyMatching: false,
        supportsWildcard: true,
        imageRendering: 'wadors',
        thumbnailRendering: 'wadors',
        enableStudyLazyLoad: true,
        omitQuotationForMultipartRequest: true,
        bulkDataURI: { enabled: true, relativeResolution: 'studies' },
      },
    },
  ],
};
