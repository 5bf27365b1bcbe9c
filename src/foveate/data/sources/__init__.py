"""Adapters of public data sets: the set's own layout becomes a manifest."""

from __future__ import annotations

from foveate.data.sources.acdc import ACDC
from foveate.data.sources.busi import BUSI
from foveate.data.sources.chestxray14 import CHESTXRAY14
from foveate.data.sources.herlev import HERLEV
from foveate.data.sources.idrid import IDRID
from foveate.data.sources.liver_ct import LIVER_CT
from foveate.data.sources.lld_mmri import LLD_MMRI
from foveate.data.sources.sipakmed import SIPAKMED
from foveate.data.sources.skin_pairs import DERM7PT, MILK10K
from foveate.data.sources.source import Listing, Source, Written, write_source

__all__ = ["SOURCES", "Listing", "Source", "Written", "write_source"]

SOURCES: dict[str, Source] = {
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
