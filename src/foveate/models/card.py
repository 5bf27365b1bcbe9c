"""What a model card holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Published:
    """One row of a published table, on data other than yours.

    Attributes:
        name: the row's name in the paper.
        figures: shares in [0, 1] by what the paper calls them, such as ``accuracy``, ``macro F1``,
            ``accuracy: cyst`` or ``localization accuracy: cyst``.
        data: what it was measured on; starts with "published, other data".
        options: options of our model that build it.
    """

    name: str
    figures: Mapping[str, float]
    data: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ModelCard:
    """One model in a few lines.

    Attributes:
        system: the published system it belongs to.
        summary: what it is, in one line.
        parameters: of the default options with ``classes`` classes; None where it depends on the choice.
        paper: title, venue and year.
        provenance: which of its parts are stated by the paper, taken from public code, or inferred.
        caveats: what to know before relying on it or on its published numbers.
        published: its rows of the paper's tables.
        classes: number of classes that ``parameters`` counts with.
    """

    system: str
    summary: str
    parameters: int | None
    paper: str
    provenance: tuple[str, ...] = ()
    caveats: tuple[str, ...] = ()
    published: tuple[Published, ...] = ()
    classes: int = 5
