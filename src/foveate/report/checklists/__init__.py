"""Reporting guidelines, filled in as far as the files of a run can: TRIPOD+AI and CLAIM 2024.

An item is answered from an artefact, with a link to the section that shows it; or it is for people, who alone
know where the patients came from and who paid. Items are told in our own short words; the wording that counts
is that of the guideline.
"""

from __future__ import annotations

from foveate.report.checklists.claim import CLAIM
from foveate.report.checklists.item import Checklist, FilledItem, Item, fill
from foveate.report.checklists.tripod import TRIPOD_AI

__all__ = ["CLAIM", "TRIPOD_AI", "Checklist", "FilledItem", "Item", "fill"]
