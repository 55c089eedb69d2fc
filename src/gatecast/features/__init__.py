"""Features and targets: the catalogue of indicators, the targets, and the proof that neither sees the future."""
