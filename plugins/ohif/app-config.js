// The recommended configuration of the OHIF viewer for results of dicom_gam: put it in place of OHIF's own
// app-config.js. It needs no rebuilt viewer: OHIF takes extensions as plain objects from here.
//
// Its hanging protocol `verified-radiograph` opens every verified image beside its own overlay, with the report's
// outline on the image below the overlay. Which overlay belongs to which image is read from the overlay's Source Image
// Sequence and never guessed from names or order: in a study of two images a wrong pair would be a wrong verdict.

const PROTOCOL = 'verified-radiograph';
const OVERLAY_IMAGE_TYPE = 'GRADCAM'; // the fourth value of Image Type

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

// OHIF's report viewport breaks on measurement groups without coordinates (the first one it meets, in 3.12), so it gets
// the outline only, without its figures, which it would write across the image; a report without any outline opens as
// text, with everything. The stored report stays as it is.
function prepareReport(displaySet) {
  const instance = displaySet.instance;
  if (!instance || displaySet.preparedFrom === instance) return;
  const isMeasurements = item => (listed(item.ConceptNameCodeSequence)[0] || {}).CodeValue === '126010'; // DCM
  const outlineOnly = group => ({
    ...group, ContentSequence: listed(group.ContentSequence).filter(item => item.ValueType !== 'NUM'),
  });
  const content = listed(instance.ContentSequence);
  if (content.some(item => holds(item, 'SCOORD'))) {
    const groups = item => listed(item.ContentSequence).filter(group => holds(group, 'SCOORD')).map(outlineOnly);
    displaySet.instance = Object.assign(Object.create(instance), {
      ContentSequence: content.map(item => (isMeasurements(item) ? { ...item, ContentSequence: groups(item) } : item)),
    });
  } else {
    displaySet.isImagingMeasurementReport = false;
  }
  displaySet.preparedFrom = displaySet.instance;
}

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

// Every verified image with its overlay and its report; of an image that was processed again, the newest first.
function verifiedImages(displaySets) {
  const images = displaySets.filter(displaySet => displaySet.numImageFrames > 0);
  const reports = displaySets.filter(displaySet => displaySet.Modality === 'SR');
  displaySets.filter(displaySet => displaySet.Modality === 'SEG').forEach(markRegion);
  const found = [];
  for (const displaySet of images) {
    listed(displaySet.instances).forEach((overlay, index) => {
      if (!isOverlay(overlay)) return;
      const source = listed(overlay.SourceImageSequence)
        .map(item => showing(images, item.ReferencedSOPInstanceUID)).find(Boolean);
      if (!source) return;
      const report = reports.find(candidate => listed(candidate.instances).slice(-1) // OHIF opens a series' last report
        .some(instance => namesInside(instance.CurrentRequestedProcedureEvidenceSequence, overlay.SOPInstanceUID)));
      if (report) prepareReport(report);
      found.push({
        source, overlay: { uid: displaySet.displaySetInstanceUID, index },
        report: report && { uid: report.displaySetInstanceUID, index: 0 }, time: timeOf(overlay),
      });
    });
  }
  return found.sort((one, other) => (one.time < other.time ? 1 : one.time > other.time ? -1 : 0));
}

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
    if (role !== 'report') viewports[place].viewportOptions.initialImageOptions = { index: image[role].index };
  });
  return {
    name: `Verified image ${number + 1} of ${total}`,
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
  const images = verifiedImages(displaySets);
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
    displaySetSelectors,
    protocolMatchingRules: images.length
      ? [{ weight: 100, attribute: 'StudyInstanceUID', constraint: { notNull: true } }] : [],
    stages: images.length ? images.map((image, number) => stage(image, number, images.length)) : [NOTHING_VERIFIED],
  };
}

let services = null;
let hanging = null;
function hangingNow() {
  const displaySets = services.displaySetService.getActiveDisplaySets();
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

// What report a viewport shows, in words: an outline alone doesn't say whether the check was passed.
function reportIn(viewportId) {
  const { viewportGridService, displaySetService } = services;
  return listed(viewportGridService.getDisplaySetsUIDsForViewport(viewportId))
    .map(uid => displaySetService.getDisplaySetByUID(uid)).find(displaySet => displaySet && displaySet.preparedFrom);
}
const VERDICT_OF_REPORT = {
  id: 'VerdictOfReport',
  inheritsFrom: 'ohif.overlayItem',
  label: '',
  title: 'AI verification report',
  color: '#ffffff',
  background: '#000000', // legible on any image
  condition: ({ viewportId }) => Boolean(reportIn(viewportId)),
  contentF: ({ viewportId }) => reportIn(viewportId).SeriesDescription,
};

window.config = {
  name: 'dicom_gam',
  routerBasename: '/',
  extensions: [
    {
      id: 'dicom-gam.verified-radiograph',
      preRegistration: ({ servicesManager }) => { services = servicesManager.services; },
      getHangingProtocolModule: () => [{ name: PROTOCOL, protocol: VERIFIED_RADIOGRAPH }],
    },
  ],
  modes: [],
  // The usual viewer, with OHIF's own protocol for studies that hold no overlay.
  modesConfiguration: { '@ohif/mode-longitudinal': { hangingProtocol: { $set: [PROTOCOL, 'default'] } } },
  customizationService: {
    autoCineModalities: { $set: ['US'] }, // OHIF plays OT too, and lays the player over the overlay's banner
    'viewportOverlay.topLeft': { $apply: items => [VERDICT_OF_REPORT, ...offOurOverlay(items)] },
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
