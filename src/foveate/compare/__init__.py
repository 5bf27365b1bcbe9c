"""Several studies under one protocol: what is to be trained, the trainings, and their comparison."""
