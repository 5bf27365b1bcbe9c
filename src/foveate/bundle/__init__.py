"""A trained model on disk, and what belongs to an answer of it."""
