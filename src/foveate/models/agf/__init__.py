"""The AGF-style network for paired modalities."""
