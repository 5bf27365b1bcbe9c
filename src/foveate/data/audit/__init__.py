"""What is wrong with a cohort before anything is learned from it."""
