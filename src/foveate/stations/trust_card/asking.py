"""Every question of the trust card, asked of a batch of cases; only numbers per case are kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from foveate.bundle.bundle import Bundle
from foveate.contract import Classifier
from foveate.errors import UsageError
from foveate.evaluate.intervals import Floats
from foveate.explain.each import explain_each
from foveate.explain.faithfulness import FaithfulnessOptions, measure_faithfulness
from foveate.explain.options import ExplainOptions
from foveate.explain.sanity import HALF, STAGES, likeness, noisy, randomised, shifted, sign_check, unshifted
from foveate.predict import PreparedCase, as_batch
from foveate.stations.trust_card.columns import CaseFigures
from foveate.stations.trust_card.plan import TrustPlan, is_costly
from foveate.stations.trust_card.pointing import Pointing
from foveate.stations.trust_card.rivals import Rival

Maps = Mapping[str, Tensor]
ROUNDS = 4  # that the questions about a batch are asked in


@dataclass(frozen=True, slots=True)
class ExplainedBatch:
    """Cases that are asked together.

    Attributes:
        rows: their positions among all cases, ascending.
        items: the prepared cases.
        views: what the model eats.
        targets: class that each is explained for: the one predicted.
    """

    rows: range
    items: Sequence[PreparedCase]
    views: Mapping[str, Tensor]
    targets: list[int]

    @property
    def patients(self) -> list[str]:
        """Patient of each case."""
        return [item.case.patient_id for item in self.items]

    def first(self, upto: int) -> ExplainedBatch:
        """The cases at positions below ``upto``."""
        n = max(0, min(len(self.items), upto - self.rows.start))
        views = {view: x[:n] for view, x in self.views.items()}
        return ExplainedBatch(self.rows[:n], self.items[:n], views, self.targets[:n])


@dataclass
class Questions:
    """Asks batch after batch and gathers the answers.

    Attributes:
        bundle: the model with its preprocessing.
        methods: whose maps are tested; one that the model cannot have is taken out.
        plan: how many cases each question is asked of.
        options: of the explainers.
        rivals: other models, by kind.
        pointing: finds what is marked in a case.
        seed: of everything drawn.
        columns: the answers.
        stages: what was drawn anew at each stage of the randomisation.
        shares: by curve, shares of the squares removed or shown.
        impossible: why the model cannot have a method, by its name.
    """

    bundle: Bundle
    methods: list[str]
    plan: TrustPlan
    options: ExplainOptions
    rivals: Mapping[str, Rival]
    pointing: Pointing
    seed: int
    columns: CaseFigures
    stages: list[str] = field(default_factory=list)
    shares: dict[str, list[float]] = field(default_factory=dict)
    impossible: dict[str, str] = field(default_factory=dict)

    def ask(self, items: Sequence[PreparedCase], start: int) -> Iterator[None]:
        """Ask everything of a batch, in ``ROUNDS`` rounds.

        Args:
            items: prepared cases.
            start: position of the first among all cases.

        Yields:
            Nothing, after each round.
        """
        batch = self._batch(items, start)
        maps = {name: found for name in list(self.methods) if (found := self._explained(batch, name))}
        yield
        self._ask_faithfulness(batch, maps)
        self._ask_localization(batch, maps)
        yield
        several = len(batch.first(self.plan.sanity).items) > 1  # one alone has nothing to be compared with
        if several:
            self._ask_randomisation(batch, maps)
        yield
        if several:
            self._ask_stability(batch, maps)
            for kind, rival in self.rivals.items():
                self._ask_rival(batch, maps, kind, rival)
            self._ask_attention(batch, maps)
            self._ask_signs(batch, maps)
        yield

    def _batch(self, items: Sequence[PreparedCase], start: int) -> ExplainedBatch:
        views = as_batch(self.bundle, items)
        with torch.inference_mode():
            probabilities = self.bundle.probabilities(self.bundle.model(views).logits)
        return ExplainedBatch(
            range(start, start + len(items)), items, views, probabilities.argmax(dim=1).tolist()
        )

    def _explained(self, batch: ExplainedBatch, name: str) -> Maps:
        """Maps of the cases that a method is asked about; none where the model cannot have it."""
        own = batch.first(self.plan.asked(name, "cases"))
        if not own.items:
            return {}
        try:
            return self._maps(self.bundle.model, own, name)
        except UsageError as error:
            self.methods.remove(name)
            self.impossible[name] = error.what
            return {}

    def _maps(
        self, model: Classifier, batch: ExplainedBatch, name: str, views: Mapping[str, Tensor] | None = None
    ) -> Maps:
        return explain_each(
            model, views or batch.views, batch.targets, name, options=self.options, seed=self.seed
        )

    def _ask_faithfulness(self, batch: ExplainedBatch, maps: Mapping[str, Maps]) -> None:
        """Ask of the cases that all methods have, then of those that only the cheap ones have."""
        score = FaithfulnessOptions(score="softmax" if self.bundle.task == "multiclass" else "sigmoid")
        ends = sorted({self.plan.asked(name, "faithful") for name in maps})
        since = batch.rows.start
        for end in ends:
            asked = [name for name in maps if self.plan.asked(name, "faithful") >= end]
            own = _between(batch, since, end)
            if own.items:
                cut = {name: _rows(maps[name], batch, own) for name in asked}
                found = measure_faithfulness(
                    self.bundle.model, own.views, cut, own.targets, score, seed=self.seed
                )
                for table in (found.measures, found.curves):
                    for measure, by_method in table.items():
                        for name, values in by_method.items():
                            self.columns.put(name, measure, own.rows, values)
                self.shares |= {curve: list(map(float, points)) for curve, points in found.shares.items()}
            since = max(since, end)

    def _ask_localization(self, batch: ExplainedBatch, maps: Mapping[str, Maps]) -> None:
        """Compare maps of the true classes with what is marked in the image."""
        marked = [(row, mark) for row, item in enumerate(batch.items) for mark in self.pointing.marks(item)]
        for name, own in maps.items():
            asked = [
                (row, mark)
                for row, mark in marked
                if row < len(batch.first(self.plan.asked(name, "cases")).items)
            ]
            other = [(row, mark.target) for row, mark in asked if mark.target != batch.targets[row]]
            drawn = self._other_classes(batch, name, sorted(set(other)))
            scores: dict[int, list[dict[str, float]]] = {}
            for row, mark in asked:
                source, at = (own, row) if mark.target == batch.targets[row] else drawn[row, mark.target]
                scores.setdefault(row, []).append(self.pointing.score(source[mark.view][at], mark))
            for row, found in scores.items():
                for measure in found[0]:
                    value = float(np.mean([each[measure] for each in found]))
                    self.columns.put(name, measure, [batch.rows[row]], np.array([value]))

    def _other_classes(
        self, batch: ExplainedBatch, name: str, wanted: Sequence[tuple[int, int]]
    ) -> dict[tuple[int, int], tuple[Maps, int]]:
        """Maps of classes that were not predicted, by row and class."""
        if not wanted:
            return {}
        rows = [row for row, _ in wanted]
        maps = explain_each(
            self.bundle.model,
            {view: x[rows] for view, x in batch.views.items()},
            [target for _, target in wanted],
            name,
            options=self.options,
            seed=self.seed,
        )
        return {key: (maps, place) for place, key in enumerate(wanted)}

    def _ask_randomisation(self, batch: ExplainedBatch, maps: Mapping[str, Maps]) -> None:
        """Compare with maps of ever more layers drawn anew; costly methods from half of them on."""
        own = batch.first(self.plan.sanity)
        self.stages = []
        for number, (stage, fresh) in enumerate(randomised(self.bundle.model, own.views, seed=self.seed)):
            self.stages.append(stage)
            for name, before, asked in self._each(batch, maps):
                if number == 0 and is_costly(name):
                    continue
                found = likeness(before, self._maps(fresh, asked, name))
                self.columns.put(name, f"randomised_{number}", asked.rows, found.magnitude)
                if STAGES[number] == HALF:
                    self.columns.put(name, "randomised_half", asked.rows, found.magnitude)
                if STAGES[number] == 1:
                    self.columns.put(name, "randomised", asked.rows, found.magnitude)
                    self.columns.put(name, "randomised_structure", asked.rows, found.structure)

    def _ask_stability(self, batch: ExplainedBatch, maps: Mapping[str, Maps]) -> None:
        for name, before, asked in self._each(batch, maps):
            model, views = self.bundle.model, asked.views
            after = self._maps(model, asked, name, noisy(views, seed=self.seed))
            self._put_same(name, "noise", asked, before, after)
            moved = self._maps(model, asked, name, shifted(views))
            self._put_same(name, "shift", asked, *unshifted(before, moved, views))

    def _ask_rival(self, batch: ExplainedBatch, maps: Mapping[str, Maps], kind: str, rival: Rival) -> None:
        """Compare with another model's maps, on patients whom it does not know either."""
        unknown = np.array([patient not in rival.bundle.patients for patient in batch.patients])
        for name, before, asked in self._each(batch, maps):
            mapped = ExplainedBatch(
                asked.rows, asked.items, asked.views, rival.targets(self.bundle.classes, asked.targets)
            )
            after = self._maps(rival.bundle.model, mapped, name)
            self._put_same(name, kind, asked, before, after, allowed=unknown[: len(asked.items)])

    def _ask_attention(self, batch: ExplainedBatch, maps: Mapping[str, Maps]) -> None:
        own = batch.first(self.plan.sanity)
        try:
            attention = self._maps(self.bundle.model, own, "attention")
        except UsageError as error:
            self.impossible["attention"] = error.what
            return
        for name, before, asked in self._each(batch, maps):
            if name.partition(":")[0] != "attention":
                after = {view: values[: len(asked.items)] for view, values in attention.items()}
                self._put_same(name, "attention", asked, before, after)

    def _ask_signs(self, batch: ExplainedBatch, maps: Mapping[str, Maps]) -> None:
        for name, own, asked in self._each(batch, maps):
            falls, rises = sign_check(self.bundle.model, asked.views, own, asked.targets)
            self.columns.put(name, "falls", asked.rows, falls)
            self.columns.put(name, "rises", asked.rows, rises)

    def _each(
        self, batch: ExplainedBatch, maps: Mapping[str, Maps]
    ) -> list[tuple[str, Maps, ExplainedBatch]]:
        """Every method with its maps and the cases that it is asked about again."""
        found: list[tuple[str, Maps, ExplainedBatch]] = []
        for name, own in maps.items():
            asked = batch.first(self.plan.asked(name, "sanity"))
            if asked.items:
                found.append((name, {view: x[: len(asked.items)] for view, x in own.items()}, asked))
        return found

    def _put_same(
        self,
        name: str,
        kind: str,
        asked: ExplainedBatch,
        first: Maps,
        second: Maps,
        allowed: Floats | None = None,
    ) -> None:
        """Enter how alike two maps of each case are, and by how much more than maps of different patients."""
        rows = np.arange(len(asked.items))
        other = np.roll(rows, 1)
        own = likeness(first, second)
        crossed = likeness(first, {view: values[other.tolist()] for view, values in second.items()})
        patients = np.array(asked.patients, dtype=object)
        valid = patients != patients[other]
        found = {
            kind: own.signed,
            f"{kind}_beyond": np.where(valid, own.signed - crossed.signed, np.nan),
            f"{kind}_magnitude": own.magnitude,
            f"{kind}_structure": own.structure,
        }
        for measure, values in found.items():
            kept = values if allowed is None else np.where(allowed, values, np.nan)
            self.columns.put(name, measure, asked.rows, kept)


def _between(batch: ExplainedBatch, start: int, stop: int) -> ExplainedBatch:
    """The cases at positions from ``start`` up to ``stop``."""
    upto = batch.first(stop)
    n = max(0, min(len(upto.items), start - batch.rows.start))
    views = {view: x[n:] for view, x in upto.views.items()}
    return ExplainedBatch(upto.rows[n:], upto.items[n:], views, upto.targets[n:])


def _rows(maps: Maps, batch: ExplainedBatch, part: ExplainedBatch) -> Maps:
    """The maps of a part of a batch."""
    start = part.rows.start - batch.rows.start
    return {view: values[start : start + len(part.items)] for view, values in maps.items()}
