"""Models compared on the same cases."""
