"""Drift: features, reference, window, PSI."""
