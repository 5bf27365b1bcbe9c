"""Imaginary cohorts with known truth, one file per kind; ``foveate.data.phantom`` is their door."""
