"""Imaginary cohorts with known truth, to try everything on: the door to one file per kind of phantom."""

from __future__ import annotations

from foveate.data.phantoms.ct import make_phantom as make_phantom
