"""Write the DICOM conformance statement from the code: python -m conformance.statement."""
