"""Adapters of public data sets: the set's own layout becomes a manifest."""

from __future__ import annotations

from foveate.data.sources.sipakmed import SIPAKMED
from foveate.data.sources.source import Listing, Source, Written, write_source

__all__ = ["SOURCES", "Listing", "Source", "Written", "write_source"]

SOURCES: dict[str, Source] = {source.name: source for source in (SIPAKMED,)}
