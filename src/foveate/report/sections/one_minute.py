"""Five answers for a reader with one minute: what, for whom, how good, where it fails, which pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from foveate.evaluate.intervals import Value
from foveate.evaluate.results.metrics import ConfusionMatrix, Metrics, SubgroupColumn
from foveate.evaluate.sample import counted
from foveate.report.files import RunFiles
from foveate.report.sections.results import chances
from foveate.report.sections.section import within

_AT_HOME = ("worse-here", "better-here", "not-shown-to-differ")  # of an external test


@dataclass(frozen=True, slots=True)
class ReaderQuestion:
    """A question and what the run says to it.

    Attributes:
        text: the question.
        sentences: the answer, shortest first.
        anchor: the section that has more.
    """

    text: str
    sentences: tuple[str, ...]
    anchor: str


def one_minute(files: RunFiles) -> list[ReaderQuestion]:
    """The five questions; none where nothing has been evaluated yet."""
    if files.metrics is None:
        return []
    return [
        ReaderQuestion("What does it do?", tuple(_what(files, files.metrics)), "model-card"),
        ReaderQuestion("For whom was it tested?", tuple(_whom(files, files.metrics)), "data"),
        ReaderQuestion("How good is it?", tuple(_how_good(files, files.metrics)), "performance"),
        ReaderQuestion("Where does it fail?", tuple(_where(files, files.metrics)), "confusion"),
        ReaderQuestion("Can the pictures be trusted?", tuple(_pictures(files)), "trust"),
    ]


def _what(files: RunFiles, metrics: Metrics) -> Iterator[str]:
    names, views = metrics.classes, files.views
    source = f"{len(views)} views ({', '.join(views)})" if len(views) > 1 else "one image"
    if metrics.task == "multilabel":
        yield f"From {source}, it decides which of {len(names)} findings are present: {', '.join(names)}."
    else:
        yield f"From {source}, it decides between {', '.join(names)}."


def _whom(files: RunFiles, metrics: Metrics) -> Iterator[str]:
    held_back = "that took no part in training"
    part = held_back if metrics.split == "test" else f"of the part “{metrics.split}”"
    source = f"of another cohort ({files.test.manifest})" if files.test else "of the same source"
    yield f"{files.cases_of(metrics.n, metrics.patients)} {part}, {source}."
    if metrics.subgroups:
        yield f"Figures are given by {', '.join(metrics.subgroups)}."
    use = files.answers.get("Intended use")
    yield f"Intended use: {use}" if use else "For whom it is meant is for people to say: no file knows it."


def _how_good(files: RunFiles, metrics: Metrics) -> Iterator[str]:
    for found in files.shift.sentences if files.shift else ():
        if found.code in _AT_HOME:
            yield found.sentence
    for key, name in (("balanced_accuracy", "Balanced accuracy"), ("auroc_macro", "Macro AUROC")):
        value, chance = metrics.metrics.figure(key), chances(metrics)[key]
        yield f"{name}: {_told(value)}; guessing gives {chance:.2f}."
    yield from _at_thresholds(metrics)
    raw, calibrated = metrics.calibration.ece.value, metrics.calibration.calibrated
    if raw is not None:
        error = None if calibrated is None else calibrated.ece.value
        after = "" if error is None else f", {100 * error:.0f} once calibrated"
        yield f"Its probabilities are off by {100 * raw:.0f} points on average{after} (ECE)."


def _at_thresholds(metrics: Metrics) -> Iterator[str]:
    """What the thresholds that validation cases chose come to; of many classes of the best and the worst."""
    points = {
        name: found
        for name, found in metrics.operating_points.items()
        if found.sensitivity.value is not None and found.specificity.value is not None
    }
    ranked = sorted(points, key=lambda name: -(points[name].sensitivity.value or 0))
    named = ranked[-1:] if len(metrics.classes) == 2 else dict.fromkeys([*ranked[:1], *ranked[-1:]])
    for name in named:
        found = points[name]
        yield (
            f"From a probability of {found.chosen.threshold:.2f} on, which validation cases chose, it finds "
            f"{_of_hundred(found.sensitivity)} of 100 cases of {name} and clears "
            f"{_of_hundred(found.specificity)} of 100 others."
        )


def _of_hundred(found: Value) -> str:
    """A share in whole cases of a hundred, with its interval."""
    shares = [f"{100 * number:.0f}" for number in (found.value, found.low, found.high) if number is not None]
    return shares[0] + (f" [{shares[1]}, {shares[2]}]" if len(shares) == 3 else "")


def _where(files: RunFiles, metrics: Metrics) -> Iterator[str]:
    recalls = {name: found.recall for name, found in metrics.per_class.items()}
    known = {name: found.value for name, found in recalls.items() if found.value is not None}
    if known and min(known.values()) < 1:
        worst = min(known, key=lambda name: known[name])
        yield f"It misses {worst} most: sensitivity {_told(recalls[worst])}."
    if swap := _most_frequent_error(metrics):
        yield swap
    yield from _gaps(metrics.subgroups or {})
    for finding in files.audit.findings if files.audit else ():
        if finding.severity == "stop":
            yield f"The data have a fault that was accepted: {finding.code}."


def _most_frequent_error(metrics: Metrics) -> str:
    """The pair of classes that is taken for each other most often (multi-class)."""
    matrix = metrics.confusion
    if not isinstance(matrix, ConfusionMatrix):
        return ""
    errors = [
        (count, matrix.labels[true], matrix.labels[said])
        for true, row in enumerate(matrix.counts)
        for said, count in enumerate(row)
        if true != said and count
    ]
    if not errors:
        return "No case of this test was decided wrong."
    count, true, said = max(errors, key=lambda error: error[0])
    total = sum(number for number, _, _ in errors)
    return f"The most frequent error ({count} of {counted(total, 'error')}): {true} is called {said}."


def _gaps(columns: Mapping[str, SubgroupColumn]) -> Iterator[str]:
    """Gaps between groups that chance does not explain, after correction for how many there are."""
    for column, found in columns.items():
        for key, gap in found.gaps.items():
            if gap.shown:
                name = key.removesuffix("_macro").replace("_", " ")
                between = f"{gap.smallest} than for {gap.largest}"
                yield f"By {column}, {name} is lower for {between}, by {_told(gap)}."


def _pictures(files: RunFiles) -> Iterator[str]:
    for found in files.probes.shortcuts if files.probes else ():
        yield f"Beware: {found.sentence}"
    if files.trust is None:
        yield "Not tested yet: run foveate trust."
        return
    verdicts = files.trust.verdicts
    asked = within(files.study, "explain", "method")
    own = asked if asked in verdicts else next(iter(verdicts))
    yield f"{own}: {verdicts[own].sentence}"
    rest = {name: bool(found.usable_for) for name, found in verdicts.items() if name != own}
    if useful := [name for name, usable in rest.items() if usable]:
        yield f"Other methods that may be used: {', '.join(useful)}."
    if useless := [name for name, usable in rest.items() if not usable]:
        yield f"Other methods that are not shown to be of use: {', '.join(useless)}."


def _told(found: Value) -> str:
    if found.value is None:
        return f"undefined ({found.reason})"
    bounds = "" if found.low is None or found.high is None else f" [{found.low:.2f}, {found.high:.2f}]"
    return f"{found.value:.2f}{bounds}"
