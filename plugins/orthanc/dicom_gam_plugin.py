"""Joins Orthanc to a dicom_gam node: name this file as "PythonScript" in Orthanc's configuration. See README.md."""

from dicom_gam_orthanc import wiring

wiring.start()
