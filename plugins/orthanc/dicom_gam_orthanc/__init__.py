"""The Orthanc plugin of dicom_gam: standard library and Orthanc's own module `orthanc`, nothing else."""
