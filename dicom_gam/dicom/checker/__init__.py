"""Our own checker for results: what the installed validators miss."""
