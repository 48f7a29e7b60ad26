"""The model bundle: manifest, loading and checking, architectures."""
