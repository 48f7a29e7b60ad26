// What plugins/ohif/app-config.js makes of display sets: node hanging.js APP-CONFIG.js < DISPLAY-SETS.json, prints JSON.
const fs = require('fs');
const vm = require('vm');

const [path] = process.argv.slice(2);
const displaySets = JSON.parse(fs.readFileSync(0, 'utf8'));
const window = {};
vm.runInNewContext(fs.readFileSync(path, 'utf8'), { window }, { filename: path });
const { config } = window;
const servicesManager = { services: { displaySetService: { getActiveDisplaySets: () => displaySets } } };
config.extensions[0].preRegistration({ servicesManager });
const [{ protocol: computed }] = config.extensions[0].getHangingProtocolModule();
const protocol = { ...computed }; // its getters prepare the display sets
console.log(JSON.stringify({
  protocol,
  mode: config.modesConfiguration,
  sources: config.dataSources.map(source => source.sourceName),
  default: config.defaultDataSourceName,
  unsupported: displaySets.filter(displaySet => displaySet.unsupported).map(each => each.displaySetInstanceUID),
  reports: displaySets.filter(displaySet => displaySet.Modality === 'SR').map(displaySet => ({
    asText: displaySet.isImagingMeasurementReport === false, content: displaySet.instance.ContentSequence,
  })),
}));
