// The button on the study page of Orthanc's own explorer. It bears no verdict: the explorer can go from one study to
// the next without telling a plugin, and the PASS of the study before must never stand beside another one.
$('#study').live('pagebeforecreate', function () {
  var item = $('<li data-icon="info"><a href="#" id="dicom-gam">AI verification</a></li>');
  item.insertAfter($('#study-store').closest('li'));
  item.find('a').click(function (event) {
    event.preventDefault();
    window.location.assign('../dicom-gam/studies/' + $.mobile.pageData.uuid);
  });
});
