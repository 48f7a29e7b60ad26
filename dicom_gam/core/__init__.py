"""Pure maths on tensors: no DICOM, files, configuration or logging."""
