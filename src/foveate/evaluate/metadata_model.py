"""How well the truth can be told without the disease: from metadata, files, or background alone.

A model of these that beats chance on patients it has not seen shows that the labels go along with how the
images were made. What an image model can reach that way says nothing about the disease.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foveate.evaluate.averages import average_interval
from foveate.evaluate.delong import few_patients_interval
from foveate.evaluate.discrimination import Ranking
from foveate.evaluate.intervals import Bootstrap, Floats, Value, mean_of_defined

Columns = Mapping[str, Sequence[str]]
MOST_VALUES = 20  # distinct texts of a column; more would name single cases
_TREES, _LEAF = 100, 3
_FOLDS = 5
_UNKNOWN = 2  # truth as the trees see it: 0 absent, 1 present, 2 unknown


@dataclass(frozen=True, slots=True)
class Features:
    """Columns as numbers.

    Attributes:
        values: ``(N, P)``, without NaN.
        owners: P names: the column that each came from.
    """

    values: Floats
    owners: tuple[str, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that are in it, each once."""
        return tuple(dict.fromkeys(self.owners))


def encode(columns: Columns) -> Features:
    """Turn columns of text into numbers.

    A column whose texts are all numbers becomes itself (an empty cell its median, with a further 0/1 number
    if any is empty); a column of at most ``MOST_VALUES`` texts becomes a 0/1 number for each. Columns of
    more texts, and those that are the same in all rows, are left out.

    Args:
        columns: by name, N texts each; empty where unknown.
    """
    parts: list[Floats] = []
    owners: list[str] = []
    count = len(next(iter(columns.values()), ()))
    for name, texts in columns.items():
        for number in _numbers(texts):
            if number.min(initial=np.inf) < number.max(initial=-np.inf):
                parts.append(number)
                owners.append(name)
    return Features(np.stack(parts, axis=1) if parts else np.empty((count, 0)), tuple(owners))


def fit_and_score(train: Floats, truth: Floats, test: Floats, *, seed: int = 0) -> Floats:
    """Learn the truth from features and score other cases: extremely randomized trees (Geurts et al. 2006).

    Args:
        train: ``(N, P)`` features.
        truth: ``(N, K)`` 1, 0, or NaN where unknown.
        test: ``(M, P)`` features.
        seed: of the trees.

    Returns:
        ``(M, K)`` scores in [0, 1]; NaN for a class that the training cases do not tell.
    """
    trees = _grown(train, truth, seed)
    shares = trees.predict_proba(test)
    kinds = trees.classes_
    if truth.shape[1] == 1:
        shares, kinds = [shares], [kinds]
    return np.stack([_present(share, kind) for share, kind in zip(shares, kinds, strict=True)], axis=1)


def cross_scores(features: Floats, truth: Floats, patients: Sequence[str], *, seed: int = 0) -> Floats:
    """Score every case by a model of other patients (five folds); ``(N, K)``, see ``fit_and_score``.

    Pooled over folds such scores rank slightly below chance where there is nothing to be learned.

    Args:
        features: ``(N, P)``.
        truth: ``(N, K)`` 1, 0, or NaN where unknown.
        patients: of each case; at least two.
        seed: of folds and trees.
    """
    from sklearn.model_selection import GroupKFold

    folds = GroupKFold(min(_FOLDS, len(set(patients))), shuffle=True, random_state=seed)
    scores = np.full(truth.shape, np.nan)
    for train, test in folds.split(features, groups=list(patients)):
        scores[test] = fit_and_score(features[train], truth[train], features[test], seed=seed)
    return scores


@dataclass(frozen=True, slots=True)
class MetadataAuroc:
    """How well scores tell the truth.

    Attributes:
        macro: AUROC, mean over the classes where it is defined.
        per_class: AUROC of each class.
        p: for each class whose AUROC is defined, the chance of one as high if scores and truth were
            unrelated, one-sided, by permutation of patients.
    """

    macro: Value
    per_class: Mapping[str, Value]
    p: Mapping[str, float]


def how_well_told(
    scores: Floats, truth: Floats, patients: Sequence[str], classes: Sequence[str], bootstrap: Bootstrap
) -> MetadataAuroc:
    """AUROC of each class with an interval over patients.

    Args:
        scores: ``(N, K)``, NaN for classes without a score.
        truth: ``(N, K)`` 1, 0, or NaN where unknown.
        patients: of each case.
        classes: K names.
        bootstrap: of the intervals.
    """
    known = np.where(np.isnan(scores), np.nan, truth)
    rankings = [Ranking.of(np.nan_to_num(scores[:, k]), known[:, k]) for k in range(len(classes))]

    def aurocs(weights: Floats) -> dict[str, Floats]:
        found = np.stack([ranking(weights)[0] for ranking in rankings], axis=1)
        return {"per_class": found, "macro": mean_of_defined(found)}

    point = aurocs(np.ones((1, len(scores))))
    drawn = bootstrap.replicates(aurocs, patients)
    count, people = len(scores), len(set(patients))
    why = "no case with the class, none without it, or none of them to learn from"

    def value(k: int) -> Value:
        replicates = drawn["per_class"][:, k] if drawn else None
        found = float(point["per_class"][0, k])
        reason = why if np.isnan(found) else ""
        exact = few_patients_interval(scores[:, k], known[:, k], patients, bootstrap.level)
        return bootstrap.value(found, replicates, n=count, patients=people, reason=reason, exact=exact)

    per_class = {name: value(k) for k, name in enumerate(classes)}
    macro = average_interval(list(per_class.values()), drawn.get("per_class"))
    return MetadataAuroc(
        bootstrap.value(float(point["macro"][0]), drawn.get("macro"), n=count, patients=people, exact=macro),
        per_class,
        {
            name: permutation_p(scores[:, k], known[:, k], patients, seed=bootstrap.seed)
            for k, name in enumerate(classes)
            if per_class[name].value is not None
        },
    )


def permutation_p(
    scores: Floats, truth: Floats, patients: Sequence[str], *, draws: int = 999, seed: int = 0
) -> float:
    """Chance of an AUROC as high if scores and truth of patients were unrelated, one-sided.

    Each patient counts once, with the mean of its scores and as positive if any of its cases is; the truths
    of patients are permuted, ``p = (1 + times as high) / (1 + draws)`` (Phipson and Smyth 2010).

    Args:
        scores: ``(N,)``.
        truth: ``(N,)`` 1, 0, or NaN where unknown.
        patients: of each case.
        draws: permutations.
        seed: of the permutations.

    Returns:
        The p-value; NaN where all patients are of one kind.
    """
    known = ~np.isnan(truth)
    _, index = np.unique(np.asarray(patients, dtype=object)[known].astype(str), return_inverse=True)
    count = np.bincount(index)
    means = np.bincount(index, scores[known]) / count
    positive = np.bincount(index, truth[known] == 1) > 0
    if positive.all() or not positive.any():
        return float("nan")
    ranking = Ranking.of(means, positive.astype(float))
    ranks = np.empty(
        len(means)
    )  # mean ranks of equals; their sum over positives is the AUROC but for constants
    stops = np.append(ranking.starts[1:], len(means))
    for start, stop in zip(ranking.starts, stops, strict=True):
        ranks[ranking.order[start:stop]] = len(means) - (start + stop - 1) / 2
    chance = np.random.default_rng(seed)
    drawn = np.array([ranks[chance.permutation(positive)].sum() for _ in range(draws)])
    return float((1 + (drawn >= ranks[positive].sum() - 1e-9).sum()) / (1 + draws))


def best_columns(features: Features, truth: Floats, *, seed: int = 0, most: int = 2) -> tuple[str, ...]:
    """The columns that the trees use most (mean decrease of impurity), the first of them first."""
    trees = _grown(features.values, truth, seed)
    with np.errstate(invalid="ignore"):  # where no split tells anything, the trees divide nought by nought
        weight = np.nan_to_num(trees.feature_importances_)
    sums = {
        name: sum(w for w, owner in zip(weight, features.owners, strict=True) if owner == name)
        for name in features.columns
    }
    return tuple(sorted(sums, key=lambda name: -sums[name])[:most])


def _grown(values: Floats, truth: Floats, seed: int) -> Any:
    """Trees that tell a truth of 1, 0 and NaN from features."""
    from sklearn.ensemble import ExtraTreesClassifier  # where it is used: the import takes a second

    answers = np.where(np.isnan(truth), _UNKNOWN, truth).astype(np.int64)
    trees = ExtraTreesClassifier(_TREES, min_samples_leaf=_LEAF, random_state=seed)
    return trees.fit(values, _columns(answers))


def _columns(answers: NDArray[np.int64]) -> NDArray[np.int64]:
    """``(N, K)`` answers as scikit-learn wants them: ``(N,)`` where there is one."""
    return answers if answers.shape[1] > 1 else answers[:, 0]


def _numbers(texts: Sequence[str]) -> list[Floats]:
    """The columns of numbers that a column of texts becomes."""
    filled = [text for text in texts if text]
    try:
        values = np.array([float(text) if text else np.nan for text in texts])
    except ValueError:
        kinds = sorted(set(texts))
        if len(kinds) > MOST_VALUES:
            return []
        return [np.array([text == kind for text in texts], dtype=float) for kind in kinds]
    if not filled or not np.isfinite(values[~np.isnan(values)]).all():
        return []
    absent = np.isnan(values)
    return [np.where(absent, np.nanmedian(values), values), absent.astype(float)]


def _present(shares: Floats, kinds: NDArray[np.int64]) -> Floats:
    """Share of "present" among "present" and "absent"; NaN where the training cases do not tell the two."""
    by_kind = {int(kind): shares[:, column] for column, kind in enumerate(kinds)}
    if not {0, 1} <= set(by_kind):
        return np.full(len(shares), np.nan)
    whole = by_kind[0] + by_kind[1]
    found: Floats = np.divide(by_kind[1], whole, out=np.full(len(shares), 0.5), where=whole > 0)
    return found
