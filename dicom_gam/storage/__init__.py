"""Jobs, outbox, audit log and blobs behind small protocols."""
