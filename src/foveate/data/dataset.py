"""Cases become batches: prepared once, kept in the cache, and drawn in an order that a seed decides.

The order of an epoch is a function of ``(seed, epoch)`` alone, so that a training that was interrupted
in the middle of an epoch finds its place again by skipping the batches it has done.
"""

from __future__ import annotations

import functools
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Float16
from numpy.typing import NDArray
from torch import Tensor

from foveate.data.cache import FileHashes, PreparedCache, cache_key
from foveate.errors import InputRefused
from foveate.io.reading import read_image, read_mask
from foveate.parallel import in_processes, process_count, read_ahead
from foveate.prepare.case import prepare_case
from foveate.prepare.pixels import with_views_of
from foveate.prepare.preprocess import Preprocess
from foveate.types import Array, Case, Cohort, Track, quiet

_ORDER_STREAM = 1  # keeps the random numbers of the order apart from those of augmentation
Arrays = Mapping[str, Array]
_TRYING_SECONDS, _LONG_SECONDS = 5.0, 60.0  # of threads, before processes are worth their start
Outcome = InputRefused | Literal["found", "made", "without room"]


@dataclass(frozen=True, slots=True)
class CacheFill:
    """What came of reading every case once.

    Attributes:
        refused: the cases that cannot be used, with the reason.
        found: cases that were in the cache.
        made: cases that were decoded and are in the cache now.
        without_room: cases that will be decoded anew for every batch.
        seconds: that it took.
    """

    refused: tuple[tuple[Case, InputRefused], ...]
    found: int
    made: int
    without_room: int
    seconds: float


class PreparedCases:
    """Cases as tensors, by position.

    Args:
        cases: all that will be asked for.
        views: names of the model's inputs.
        preprocess: the study's preprocessing.
        cache: where prepared images are kept, or None to decode them for every batch.
        tolerant: whether a case may lack views, as long as it has one; else every case needs each.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        views: Sequence[str],
        preprocess: Preprocess,
        cache: PreparedCache | None,
        *,
        tolerant: bool = False,
    ) -> None:
        self.cases = tuple(cases)
        self.views = tuple(views)
        self.tolerant = tolerant
        self._preprocess = preprocess
        self._cache = cache
        self._keys: dict[str, dict[str, str]] = {}

    def fill(self, track: Track = quiet) -> CacheFill:
        """Read every case once: to keep it in the cache, as far as there is room, and to find the unusable.

        Slices of one volume are prepared together, so that its file is decoded once. Threads begin; where
        they would take long, processes go on.

        Raises:
            UsageError: the preprocessing does not fit the images.
        """
        began = time.perf_counter()
        groups = _by_file(self.cases, self.views)
        outcomes: dict[str, Outcome] = {}
        with ThreadPoolExecutor(max(torch.get_num_threads(), 1)) as pool:
            if self._cache is not None:
                self._name_entries(self._cache, pool)
        for _, settled in zip(track(groups, "Preparing images"), self._settle_all(groups), strict=True):
            outcomes.update(settled)
        refused = [(case, outcomes[case.case_id]) for case in self.cases]
        counts = Counter(outcome for outcome in outcomes.values() if isinstance(outcome, str))
        return CacheFill(
            refused=tuple((case, error) for case, error in refused if isinstance(error, InputRefused)),
            found=counts["found"],
            made=counts["made"],
            without_room=counts["without room"],
            seconds=time.perf_counter() - began,
        )

    def part(self, cases: Sequence[Case]) -> PreparedCases:
        """Some of these cases, on their own."""
        chosen = PreparedCases(cases, self.views, self._preprocess, self._cache, tolerant=self.tolerant)
        chosen._keys = self._keys
        return chosen

    def batch(self, positions: Iterable[int]) -> dict[str, Float16[Tensor, "B C *space"]]:
        """The named cases, each view stacked; grey images beside colour ones get three channels.

        A view that a case lacks is a row of NaN (see ``contract.given``).
        """
        rows = [self._load(self.cases[position]) for position in positions]
        missing = np.full((1, *self._preprocess.config.size), np.nan, dtype=np.float16)
        return {view: _stack([row.get(view, missing) for row in rows]) for view in self.views}

    def _name_entries(self, cache: PreparedCache, pool: ThreadPoolExecutor) -> None:
        """Work out the key of every image, and protect them."""
        hashes = FileHashes(cache.folder / "hashes.json")
        named = pool.map(functools.partial(self._entry_names, hashes), self.cases)
        self._keys = {case.case_id: names for case, names in zip(self.cases, named, strict=True)}
        hashes.save()
        cache.protect(key for names in self._keys.values() for key in names.values())

    def _entry_names(self, hashes: FileHashes, case: Case) -> dict[str, str]:
        """Cache key of each view; none where a file is missing, which the reader will report."""
        try:
            return {view: self._entry_name(hashes, case, view) for view in self.views if view in case.views}
        except OSError:
            return {}

    def _entry_name(self, hashes: FileHashes, case: Case, view: str) -> str:
        organ = case.organ_mask if self._preprocess.settings(view).organ_crop else None
        mask = hashes.of(organ) + case.organ_mask_segment if organ else None
        first = self._preprocess.reference([name for name in self.views if name in case.views])
        grid = [] if first in (None, view) else [hashes.of(case.views[str(first)])]
        key = self._preprocess.key(view)
        return cache_key(hashes.of(case.views[view]), case.slice_index, mask, key, *grid)

    def _settle_all(self, groups: Sequence[Sequence[Case]]) -> Iterator[dict[str, Outcome]]:
        """Settle group after group: in threads at first, in processes once it is known to take long."""
        began, done, rest = time.perf_counter(), 0, iter(groups)

        def wanted() -> Iterator[Sequence[Case]]:
            """Groups, for as long as threads are quick enough."""
            for group in rest:
                yield group
                passed = time.perf_counter() - began
                if passed > _TRYING_SECONDS and passed / max(done, 1) * (len(groups) - done) > _LONG_SECONDS:
                    return

        for settled in read_ahead(self._settle, wanted(), max(torch.get_num_threads(), 1)):
            yield settled
            done += 1
        if self._cache is not None and self._keys:  # else nothing would remain of what processes did
            yield from self._settle_in_processes(list(rest))
        else:
            yield from map(self._settle, rest)

    def _settle_in_processes(self, groups: Sequence[Sequence[Case]]) -> Iterator[dict[str, Outcome]]:
        known = [{case.case_id: self._known(case) for case in group} for group in groups]
        unknown = [
            [case for case in group if there[case.case_id] is None]
            for group, there in zip(groups, known, strict=True)
        ]
        work = functools.partial(_decode, self._preprocess, self.views, self.tolerant)
        answers = in_processes(work, [group for group in unknown if group], process_count(), _in_one_thread)
        for there, group in zip(known, unknown, strict=True):
            made = next(answers) if group else {}
            if isinstance(
                made, InputRefused
            ):  # the process died; of several cases of one file all are refused
                made = {case.case_id: made for case in group}
            yield self._settled(there, made)

    def _settle(self, group: Sequence[Case]) -> dict[str, Outcome]:
        """See that cases of one file are in the cache; runs in several threads."""
        known = {case.case_id: self._known(case) for case in group}
        unknown = [case for case in group if known[case.case_id] is None]
        return self._settled(known, _decode(self._preprocess, self.views, self.tolerant, unknown))

    def _settled(
        self, known: Mapping[str, Outcome | None], made: Mapping[str, Arrays | InputRefused]
    ) -> dict[str, Outcome]:
        """Keep what was decoded, beside what was known before."""
        kept = {name: self._keep(name, arrays) for name, arrays in made.items()}
        return {name: kept[name] if outcome is None else outcome for name, outcome in known.items()}

    def _known(self, case: Case) -> Outcome | None:
        """What can be said of a case without decoding: a view is missing, or all are in the cache."""
        try:
            with_views_of(case, self.views, tolerant=self.tolerant)
        except InputRefused as error:
            return error
        keys = self._keys.get(case.case_id, {})
        there = self._cache is not None and keys and all(map(self._cache.check, keys.values()))
        return "found" if there else None

    def _keep(self, case_id: str, made: Arrays | InputRefused) -> Outcome:
        """Put what was decoded into the cache."""
        keys = self._keys.get(case_id, {})
        if isinstance(made, InputRefused):
            return made
        if self._cache is None or not keys:
            return "without room"
        kept = [self._cache.write(keys[view], array) for view, array in made.items()]
        return "made" if all(kept) else "without room"

    def _load(self, case: Case) -> Mapping[str, Array]:
        """Arrays of one case: from the cache, or decoded where the cache has none."""
        needed = with_views_of(case, self.views, tolerant=self.tolerant)
        found = {}
        for view, key in self._keys.get(case.case_id, {}).items():
            if self._cache is not None and (array := self._cache.read(key)) is not None:
                found[view] = array
        if len(found) == len(needed.views):
            return found
        prepared = prepare_case(needed, self._preprocess)
        return {view: item.tensor.numpy() for view, item in prepared.items()}


def _decode(
    preprocess: Preprocess, views: Sequence[str], tolerant: bool, group: Sequence[Case]
) -> dict[str, Arrays | InputRefused]:
    """Prepare cases of one file, which is read once; runs in threads and in processes."""
    image_reader, mask_reader = functools.cache(read_image), functools.cache(read_mask)
    found: dict[str, Arrays | InputRefused] = {}
    for case in group:
        try:
            needed = with_views_of(case, views, tolerant=tolerant)
            prepared = prepare_case(needed, preprocess, image_reader=image_reader, mask_reader=mask_reader)
            found[case.case_id] = {view: item.tensor.numpy() for view, item in prepared.items()}
        except InputRefused as error:
            found[case.case_id] = error
    return found


def _in_one_thread() -> None:
    """How each of several processes computes."""
    torch.set_num_threads(1)


def class_targets(cohort: Cohort, cases: Sequence[Case]) -> Tensor:
    """Truth as a criterion takes it.

    Returns:
        ``(N,)`` class indices (multi-class; every case must have a label), or ``(N, K)`` of 1, 0 and
        NaN = unknown (multi-label).
    """
    truth = torch.from_numpy(np.stack([cohort.target(case) for case in cases]))
    return truth.argmax(dim=1) if cohort.task == "multiclass" else truth.float()


def sampling_weights(truth: Float[np.ndarray, "N K"]) -> NDArray[np.float64]:
    """Chance of each case to be drawn, so that classes come equally often.

    Multi-class: one over the number of cases of its class. Multi-label: the same for its rarest positive
    finding; cases without any finding count as a class of their own.

    Args:
        truth: ``(N, K)`` of 1, 0 and NaN = unknown.

    Returns:
        ``(N,)``, summing to one.
    """
    positive = np.nan_to_num(truth) > 0
    healthy = ~positive.any(axis=1, keepdims=True)
    groups = np.concatenate([positive, healthy], axis=1)
    rarity = np.where(groups, 1 / np.maximum(groups.sum(axis=0), 1), 0).max(axis=1)
    return np.asarray(rarity / rarity.sum(), dtype=np.float64)


def epoch_order(
    count: int, seed: int, epoch: int, weights: NDArray[np.float64] | None = None
) -> NDArray[np.int64]:
    """The order in which one epoch sees the cases.

    Args:
        count: number of cases.
        seed: of the study.
        epoch: counted from 0.
        weights: ``(count,)`` chances, for drawing with replacement; None gives every case once.

    Returns:
        ``(count,)`` positions of cases.
    """
    chance = np.random.default_rng([seed, epoch, 0, _ORDER_STREAM])
    if weights is None:
        return np.asarray(chance.permutation(count), dtype=np.int64)
    return np.asarray(chance.choice(count, size=count, p=weights), dtype=np.int64)


def batches_of(count: int, batch_size: int, *, rank: int = 0, world: int = 1) -> list[NDArray[np.int64]]:
    """Divide the places of an epoch's order among devices and into batches.

    Batches differ by at most one in length instead of leaving a small rest, which batch normalization
    would suffer from. With several devices all get equally many places; the first ones are used again
    to make it come out even.

    Args:
        count: number of places.
        batch_size: highest length of a batch.
        rank, world: which device of how many.
    """
    mine = np.arange(-(-count // world) * world)[rank::world] % count
    return [batch.astype(np.int64) for batch in np.array_split(mine, max(-(-len(mine) // batch_size), 1))]


def _by_file(cases: Iterable[Case], views: Sequence[str]) -> list[list[Case]]:
    """Cases that share the file of the first view, together."""
    groups: dict[object, list[Case]] = {}
    for case in cases:
        groups.setdefault(case.views.get(views[0], case.case_id), []).append(case)
    return list(groups.values())


def _stack(arrays: Sequence[Array]) -> Float16[Tensor, "B C *space"]:
    channels = max(array.shape[0] for array in arrays)
    shape = (channels, *arrays[0].shape[1:])
    return torch.from_numpy(np.stack([np.broadcast_to(array, shape) for array in arrays]))
