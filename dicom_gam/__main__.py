"""`python -m dicom_gam` is the `dicom-gam` command."""

from dicom_gam.cli.main import app

app()
