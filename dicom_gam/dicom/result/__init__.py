"""From a verified prediction to the DICOM objects that go back."""
