"""One way to ask any trained model: see ``opening``."""
