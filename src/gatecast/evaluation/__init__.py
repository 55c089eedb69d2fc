"""Honest evaluation: splits, metrics, baselines, statistical tests and the report."""
