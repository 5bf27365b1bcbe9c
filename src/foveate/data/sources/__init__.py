"""Adapters of public data sets: the set's own layout becomes a manifest."""

from __future__ import annotations

import difflib

from foveate.data.sources.acdc import ACDC
from foveate.data.sources.busi import BUSI
from foveate.data.sources.chestxray14 import CHESTXRAY14
from foveate.data.sources.herlev import HERLEV
from foveate.data.sources.idrid import IDRID
from foveate.data.sources.liver_ct import LIVER_CT
from foveate.data.sources.lld_mmri import LLD_MMRI
from foveate.data.sources.sipakmed import SIPAKMED
from foveate.data.sources.skin_pairs import DERM7PT, MILK10K
from foveate.data.sources.source import DataSource, Listing, Written, write_source
from foveate.errors import UsageError

__all__ = ["SOURCES", "Listing", "Source", "Written", "find_source", "write_source"]

SOURCES: dict[str, DataSource] = {
    "lld-mmri": LLD_MMRI,
    "chestxray14": CHESTXRAY14,
    "sipakmed": SIPAKMED,
    "herlev": HERLEV,
    "milk10k": MILK10K,
    "derm7pt": DERM7PT,
    "acdc": ACDC,
    "busi": BUSI,
    "idrid": IDRID,
    "liver-ct": LIVER_CT,
}


def find_source(name: str) -> DataSource:
    """Look up a data set by its name.

    Raises:
        UsageError: there is no such adapter.
    """
    if name not in SOURCES:
        close = difflib.get_close_matches(name, SOURCES, n=1)
        fix = f"did you mean '{close[0]}'?" if close else f"choose from: {', '.join(SOURCES)}"
        raise UsageError(f"there is no adapter for '{name}'", fix=fix, code="unknown-source")
    return SOURCES[name]
