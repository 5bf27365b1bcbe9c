"""Figures of the pages, as SVG: see ``drawing`` for what they share."""
