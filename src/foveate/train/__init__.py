"""Training: the study file, the loop, and what lets an interrupted run go on exactly where it stopped."""
