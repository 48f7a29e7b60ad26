"""The front door: what the node offers to those who call it."""
