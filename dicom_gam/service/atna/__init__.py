"""Audit messages of DICOM (PS3.15 A.5), made from the records of our audit log, for the hospital's repository."""
