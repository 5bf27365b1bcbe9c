"""Probabilities: calibration, thresholds, prediction sets, abstention."""
