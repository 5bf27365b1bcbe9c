"""A trained run becomes one file that other programs can run, checked against the run on real cases."""
