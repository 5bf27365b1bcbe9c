"""For an explicit class, where in the image the model's evidence lies: see ``explainers``."""
