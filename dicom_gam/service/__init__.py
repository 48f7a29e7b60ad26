"""The running node: listener, workers and sender in one process."""
