"""Which cases a station takes, read and prepared a batch ahead of the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING

from foveate.errors import InputRefused, Partial
from foveate.evaluate.results.splits import Splits
from foveate.io.reading import read_image, read_mask
from foveate.parallel import read_ahead
from foveate.stations.run import Run
from foveate.types import Case, Cohort, Steps, Track

if TYPE_CHECKING:
    from foveate.bundle.bundle import Bundle
    from foveate.predict import PreparedCase

BATCH, VOLUME_BATCH = 32, 2  # cases at once; a volume has as many pixels as a hundred pictures
_READERS = 2
VOLUMES = 3  # files remembered while the slices of a volume are gone through


def cases_of(run: Run, cohort: Cohort, parts: Sequence[str]) -> list[Case]:
    """The cases of the named parts, each carrying the name of its part, in the manifest's order."""
    where = run.result(Splits).folds[run.study.split.fold]
    return [
        replace(case, split=where[case.case_id]) for case in cohort.cases if where.get(case.case_id) in parts
    ]


def prepared_batches(
    bundle: Bundle,
    cases: Sequence[Case],
    refused: list[InputRefused],
    track: Track,
    what: str,
    *,
    plain: bool = True,
) -> Iterator[list[PreparedCase]]:
    """Read and prepare cases a batch ahead of the model; refused cases are collected, not raised.

    Args:
        bundle: whose preprocessing and views count.
        cases: in their order.
        refused: those that cannot be used are added here.
        track: shows progress.
        what: is done with them.
        plain: whether plain facts of the images are taken down, which predictions are compared by.
    """
    from foveate.predict import read_and_prepare

    images, masks = lru_cache(VOLUMES)(read_image), lru_cache(VOLUMES)(read_mask)

    def attempt(case: Case) -> PreparedCase | InputRefused:
        try:
            return read_and_prepare(bundle, case, image_reader=images, mask_reader=masks, plain=plain)
        except InputRefused as error:
            return error

    size = VOLUME_BATCH if bundle.preprocess.config.volumes else BATCH
    steps = Steps(track, len(cases), what)
    tried = read_ahead(attempt, cases, _READERS, ahead=size)
    while ready := list(islice(tried, size)):
        refused += [item for item in ready if isinstance(item, InputRefused)]
        if good := [item for item in ready if not isinstance(item, InputRefused)]:
            yield good
        steps.advance(len(ready))


def raise_if_partial(refused: Sequence[InputRefused], done: str) -> None:
    """Say which cases were refused, after everything else was done and written."""
    if refused:
        listing = "\n".join(f"  - [{error.code}] {error.where}: {error.what}" for error in refused)
        raise Partial(
            f"{done}; {len(refused)} refused:\n{listing}", fix="correct these files and run the command again"
        )
