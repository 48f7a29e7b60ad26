"""The DICOM edge: decoding, network, result encoding. No torch."""
