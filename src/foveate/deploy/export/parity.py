"""Is an exported file the run? Its answers to real cases beside those of the bundle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foveate.deploy.engines.engine import Answer
from foveate.deploy.engines.facts import Facts

BOUNDS = {"f32": (1e-4, 0.995, 0.999), "bf16": (2e-2, 0.995, 0.99)}  # see Parity.problems
NOVELTY = {"f32": 1e-2, "bf16": 0.1}  # how far, as a share of it, novelty may be off


@dataclass(frozen=True, slots=True)
class Parity:
    """How far an engine's answers are from the bundle's.

    Attributes:
        engine: that ran the file, with its precision.
        precision: ``f32``, ``bf16`` or ``int8``.
        cases: that were asked.
        probability: largest difference of any probability, raw or calibrated.
        same: share of decisions that are the same: the class of a case, or each finding of it.
        correlation: of the maps of all classes of a case (Pearson), the mean over cases and views; NaN
            without maps.
        novelty: largest difference of novelty, as a share of it; NaN without.
        thresholds: whether classes and thresholds in the file are the bundle's.
    """

    engine: str
    precision: str
    cases: int
    probability: float
    same: float
    correlation: float
    novelty: float
    thresholds: bool

    def problems(self) -> list[str]:
        """In what it is not the run, by the bounds of its precision; int8 has none, its loss is told."""
        if self.precision not in BOUNDS:
            return [] if self.thresholds else ["thresholds differ"]
        most, same, correlation = BOUNDS[self.precision]
        checks = {
            f"a probability differs by {self.probability:.2g}, more than {most:g}": self.probability > most,
            f"{1 - self.same:.1%} of decisions differ": self.same < same,
            f"maps correlate with {self.correlation:.4f} only": self.correlation < correlation,
            f"novelty differs by {self.novelty:.1%}": self.novelty > NOVELTY[self.precision],
            "thresholds differ": not self.thresholds,
            "a probability is not a number": bool(np.isnan(self.probability)),
        }
        return [text for text, failed in checks.items() if failed]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON, with what failed; what is undefined is None."""
        plain = {
            key: None if isinstance(value, float) and np.isnan(value) else value
            for key, value in asdict(self).items()
        }
        return plain | {"problems": self.problems()}


def compare(
    engine: str, precision: str, facts: tuple[Facts, Facts], ours: Sequence[Answer], theirs: Sequence[Answer]
) -> Parity:
    """Compare answers to the same cases.

    Args:
        engine: that gave ``theirs``.
        precision: it computed in.
        facts: of the bundle, and of the file.
        ours: of the bundle.
        theirs: of the file.
    """
    pairs = list(zip(ours, theirs, strict=True))
    told = [(one.prediction, other.prediction) for one, other in pairs]
    raw = [np.abs(one.probabilities - other.probabilities) for one, other in told]
    calibrated = [_difference(one.calibrated, other.calibrated) for one, other in told]
    return Parity(
        engine=engine,
        precision=precision,
        cases=len(pairs),
        probability=float(np.max([each.max() for each in [*raw, *calibrated]])),
        same=_same(facts[0], pairs),
        correlation=_correlation(pairs) if facts[1].explainer else float("nan"),
        novelty=_novelty([(one.novelty, other.novelty) for one, other in told]),
        thresholds=_rules(facts[0]) == _rules(facts[1]),
    )


def right(facts: Facts, answers: Sequence[Answer]) -> float:
    """Share of decisions that are right, of those whose truth is known; NaN without any."""
    decisions = np.stack([answer.decision for answer in answers])
    truth = np.stack([answer.prediction.truth for answer in answers])
    known: NDArray[np.bool_] = ~np.isnan(truth)
    agree: NDArray[np.bool_] = np.asarray(decisions == (truth == 1))
    if facts.task == "multiclass":
        known, agree = np.any(known, axis=1, keepdims=True), np.all(agree, axis=1, keepdims=True)
    return float(agree[known].mean()) if known.any() else float("nan")


def _difference(one: Any, other: Any) -> Any:
    """Of calibrated probabilities: those that neither side has agree, those that one lacks do not."""
    if one is None or other is None:
        return np.array([0.0 if one is other else np.nan])
    unknown = np.isnan(one) & np.isnan(other)
    return np.where(unknown, 0.0, np.abs(one - other))


def _same(facts: Facts, pairs: Sequence[tuple[Answer, Answer]]) -> float:
    agree = np.stack([one.decision == other.decision for one, other in pairs])
    return float((agree.all(axis=1) if facts.task == "multiclass" else agree).mean())


def _correlation(pairs: Sequence[tuple[Answer, Answer]]) -> float:
    """Mean over cases and views; where both are constant they agree, where one is they do not."""
    found = [
        _pearson(one.maps[view].ravel(), other.maps[view].ravel() if view in other.maps else None)
        for one, other in pairs
        for view in one.maps
    ]
    return float(np.mean(found)) if found else float("nan")


def _pearson(one: Any, other: Any) -> float:
    if other is None or one.shape != other.shape:
        return 0.0
    one, other = one.astype(np.float64) - one.mean(), other.astype(np.float64) - other.mean()
    lengths = np.linalg.norm(one), np.linalg.norm(other)
    if min(lengths) == 0:
        return float(max(lengths) == 0)
    return float(one @ other / (lengths[0] * lengths[1]))


def _novelty(pairs: Sequence[tuple[float, float]]) -> float:
    known = [(one, other) for one, other in pairs if not (np.isnan(one) and np.isnan(other))]
    if not known:
        return float("nan")
    return float(np.max([abs(other - one) / max(abs(one), 1e-9) for one, other in known]))


def _rules(facts: Facts) -> tuple[Any, ...]:
    """All by which probabilities become decisions."""
    return facts.classes, facts.thresholds, facts.set_rule, facts.strangest
