"""The result files of a run: one class for each, that writes it and reads it."""
