// What plugins/ohif/app-config.js makes of display sets: node hanging.js APP-CONFIG.js < INPUT.json, prints JSON.
// INPUT: {displaySets, study?: the study that is open, after?: a script that stands behind the configuration}.
const fs = require('fs');
const vm = require('vm');

const [path] = process.argv.slice(2);
const { displaySets: given, study, after } = JSON.parse(fs.readFileSync(0, 'utf8'));
const context = vm.createContext({ window: {} });
vm.runInContext(`${fs.readFileSync(path, 'utf8')}\n${after || ''}`, context, { filename: path });
const { config } = context.window;

const displaySets = [];
const ohifsOwn = { // one display set a series, of its last report, as OHIF 3.12 makes it
  getDisplaySetsFromSeries: instances => [{
    ...given.find(each => each.displaySetInstanceUID === `display-${instances[0].SeriesInstanceUID}`),
    displaySetInstanceUID: `report-${instances.at(-1).SOPInstanceUID}`,
    instances, instance: instances.at(-1), isImagingMeasurementReport: true, addInstances: () => null,
  }],
};
config.extensions[0].preRegistration({
  commandsManager: {},
  extensionManager: { getModuleEntry: () => ohifsOwn },
  servicesManager: {
    services: {
      displaySetService: {
        getActiveDisplaySets: () => displaySets,
        getDisplaySetForSOPInstanceUID: uid => displaySets
          .find(displaySet => displaySet.instances.some(instance => instance.SOPInstanceUID === uid)),
      },
      hangingProtocolService: { activeStudy: study && { StudyInstanceUID: study } },
    },
  },
});
const [handler] = config.extensions[0].getSopClassHandlerModule();
for (const displaySet of given) {
  if (!handler.sopClassUids.includes(displaySet.instance.SOPClassUID)) displaySets.push(displaySet);
  else displaySets.push(...handler.getDisplaySetsFromSeries(displaySet.instances));
}
const again = given.filter(displaySet => handler.sopClassUids.includes(displaySet.instance.SOPClassUID))
  .flatMap(displaySet => handler.getDisplaySetsFromSeries(displaySet.instances));

const [{ protocol: computed }] = config.extensions[0].getHangingProtocolModule();
const protocol = { ...computed };
console.log(JSON.stringify({
  protocol,
  again: again.length,
  results: vm.runInContext('hangingNow().results', context),
  mode: config.modesConfiguration,
  sources: config.dataSources.map(source => source.sourceName),
  default: config.defaultDataSourceName,
  unsupported: displaySets.filter(displaySet => displaySet.unsupported).map(each => each.displaySetInstanceUID),
  reports: displaySets.filter(displaySet => displaySet.Modality === 'SR').map(displaySet => ({
    asText: displaySet.isImagingMeasurementReport === false,
    content: displaySet.instance.ContentSequence,
    stored: displaySet.storedReport.ContentSequence,
  })),
}));
