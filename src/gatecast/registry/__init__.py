"""The model registry: what is promoted, as what, and where it came from."""
