"""Verified AI results for radiographs in DICOM."""

__version__ = "0.1.0"
