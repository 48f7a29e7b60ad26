"""The dashboard and the HTTP API: they read storage and call service commands."""
