"""What the node asks of others: store, commit, retrieve, over DIMSE and DICOMweb."""
