"""What a reader must know before quoting a figure or a picture of a run: one list, the worst first.

The first page, the end of ``foveate run``, the model card, ``foveate predict`` and ``foveate compare`` all
show this list. It is made of what the stations left in their files, so that it is never older than they are;
``cautions.json``, in the run and in its bundle, holds it for those who have the bundle alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from foveate.evaluate.intervals import Value
from foveate.evaluate.localization.wording import main_measure, not_beaten, verdict
from foveate.evaluate.results.cautions import Caution, Cautions
from foveate.evaluate.results.comparison import SharedCaution
from foveate.evaluate.results.parts import ABSENT
from foveate.evaluate.sample import counted
from foveate.evaluate.unlike import PREFIX
from foveate.report.files import RunFiles
from foveate.report.sections.cohort import count_parts
from foveate.report.sections.results import class_values
from foveate.report.sections.section import reasons, within

FEW_PATIENTS = 30
"""Below this, an interval by resampling patients is rough, and what is chosen on so few may be chance."""
FEW_EVENTS = 10
"""Fewest cases with a class, and without it, whose figures say much about it."""
FEW_TILES = 4
"""Tiles outside what is marked; below this the search for shortcuts could ask almost nothing."""
UNFAMILIAR = 0.05
"""Share of cases that may look unlike the training images by chance alone (``familiar`` aims at 4 %)."""
WORSE = 0.005
"""Log loss by which calibration must have made it worse to be named although chance could explain it."""
HARM = {
    "accepted": "a fault of the data that was accepted",
    "not-a-test": "figures of cases that helped to make the model",
    "no-better-than-guessing": "a network that is not shown to know anything",
    "told-without-looking": "labels that are told as well without the disease",
    "shortcut": "a shortcut that the network was found to use",
    "patients-unknown": "images of one patient may lie in several parts",
    "elsewhere": "what differs in another cohort and does harm there",
    "unlike-images": "images that are plainly unlike those that the model learned from",
    "label-told": "labels that are told, if less well, without the disease",
    "maps-miss": "heat maps no better than a control at pointing at what is marked",
    "maps-unusable": "heat maps that were shown to be of no use",
    "calibration-worse": "calibrated probabilities that are worse than raw ones",
    "few-patients": "intervals over few patients",
    "few-events": "classes of few cases",
    "small-validation": "choices made on few patients",
    "few-questions": "a search for shortcuts that could ask little",
    "undefined": "figures that could not be computed",
    "names-tell": "file names that tell the label, which the network does not see",
    "noted": "what the audit noticed in the images",
}
"""Every code, in order of harm, with what it warns of."""
_BY_AUDIT = {
    "patients-unknown": "patients-unknown",
    "metadata-tells-label": "label-told",
    "names-tell-label": "names-tell",
    "sizes-tell-label": "label-told",
    "mixed-colour": "noted",
    "training-images-unknown": "elsewhere",
}
"""Notes of the audit that a reader must know, and how they are called here."""
_SAME_AS_LEAK = ("metadata-tells-label", "sizes-tell-label")
_SHIFT = ("worse-here", "seen", "wrong-where-novel", "group-worse", "recalibration-worse", "not-compared")


def find_cautions(files: RunFiles) -> Cautions:
    """The cautions of a run, from whatever files it has."""
    found = {item.sentence: item for gather in _GATHERERS for item in gather(files)}
    order = list(HARM)
    states = [(what, why(files)) for what, why in _QUESTIONS.items()]
    details = "; ".join(files.probes.asked if files.probes else ())
    asked = {_SHORTCUTS: f"{_SHORTCUTS} ({details})" if details else _SHORTCUTS}
    return Cautions(
        items=tuple(sorted(found.values(), key=lambda item: order.index(item.code))),
        asked=tuple(asked.get(what, what) for what, missing in states if not missing),
        not_asked=tuple(f"{what} ({missing})" for what, missing in states if missing),
    )


def of_runs(runs: Mapping[str, RunFiles]) -> tuple[SharedCaution, ...]:
    """The cautions of several runs, the worst first, each once, with the runs that it is about.

    Args:
        runs: by name.
    """
    owners: dict[Caution, list[str]] = {}
    for label, files in runs.items():
        for item in find_cautions(files).items:
            owners.setdefault(item, []).append(label)
    order = list(HARM)
    return tuple(
        SharedCaution(code=item.code, sentence=item.sentence, runs=tuple(labels))
        for item, labels in sorted(owners.items(), key=lambda pair: order.index(pair[0].code))
    )


def in_words(found: Sequence[SharedCaution], runs: int) -> list[str]:
    """What ``of_runs`` found as sentences, each with the runs that it is about unless it is all of them.

    Args:
        found: by ``of_runs``.
        runs: how many there are.
    """
    return [
        item.sentence if len(item.runs) == runs else f"{', '.join(item.runs)}: {item.sentence}"
        for item in found
    ]


def _of_audit(files: RunFiles) -> Iterator[Caution]:
    by_metadata = any(leak.kind == "metadata" for leak in (files.probes.leaks if files.probes else ()))
    for finding in files.audit.findings if files.audit else ():
        if by_metadata and finding.code in _SAME_AS_LEAK:
            continue  # the probes say it with the network beside
        if finding.severity == "stop":
            accepted = ", accepted by whoever ran the study" if finding.allowed else ""
            told = f"The audit found “{finding.code}”{accepted}: {finding.message}"
            yield _caution("accepted", _sentence(told), "data")
        elif code := _BY_AUDIT.get(finding.code):
            yield _caution(code, _sentence(finding.message), "data")


def _of_shift(files: RunFiles) -> Iterator[Caution]:
    for found in files.shift.sentences if files.shift else ():
        if found.code in _SHIFT:
            yield _caution("elsewhere", found.sentence, "shift")


def _of_metrics(files: RunFiles) -> Iterator[Caution]:
    metrics = files.metrics
    if not metrics:
        return
    if metrics.split != "test":
        told = f"These figures are of the part “{metrics.split}”, which helped to make the model."
        yield _caution("not-a-test", told, "performance")
    auroc = metrics.metrics.auroc_macro
    if auroc.low is not None and auroc.low <= 0.5:
        told = f"The network is not shown to know more than guessing: macro AUROC {in_brackets(auroc)}."
        yield _caution("no-better-than-guessing", told, "performance")
    if metrics.patients < FEW_PATIENTS:
        known = files.patients_known
        tested = f"{metrics.patients} patients" if known else files.cases_of(metrics.n, metrics.n)
        few = f"Only {tested} were tested."
        told = f"{few} With fewer than {FEW_PATIENTS}, intervals are rough, and usually too narrow."
        yield _caution("few-patients", told, "performance")
    if rare := [f"{name} ({share})" for name, share in _few_events(files)]:
        told = f"Few cases to judge some classes by: {'; '.join(rare)}."
        yield _caution("few-events", told, "performance")
    if undefined := reasons(class_values(metrics), undefined=True):
        yield _caution("undefined", f"Undefined, and in no average: {'; '.join(undefined)}.", "performance")
    yield from _of_calibration(files)


def _of_images(files: RunFiles) -> Iterator[Caution]:
    """Cases whose images plainly differ from the training images, where chance does not explain as many."""
    unlike = files.metrics.unlike if files.metrics else None
    if unlike is None or unlike.share.low is None or unlike.share.low < UNFAMILIAR:
        return
    listed = ", ".join(f"{kind.removeprefix(PREFIX)} in {count}" for kind, count in unlike.kinds.items())
    cases = counted(unlike.share.n, "case")
    told = f"{unlike.cases} of {cases} are plainly unlike what the model learned from"
    yield _caution("unlike-images", f"{told}: {listed}.", "shift" if files.shift else "abstention")


def _few_events(files: RunFiles) -> Iterator[tuple[str, str]]:
    for name, found in files.metrics.per_class.items() if files.metrics else ():
        known, events = found.auroc.n, found.n
        if events < FEW_EVENTS:
            yield name, f"{events} of {known} cases"
        elif known - events < FEW_EVENTS:
            yield name, f"all but {known - events} of {known} cases"


def _of_calibration(files: RunFiles) -> Iterator[Caution]:
    calibrated = files.metrics and files.metrics.calibration.calibrated
    change = calibrated.change.log_loss if calibrated else ABSENT
    if change.value is None or change.value <= 0:
        return
    if change.low is not None and change.low > 0:
        told = "Calibration made the probabilities worse"
    elif change.value > WORSE:
        told = "Calibration is not shown to have helped"
    else:
        return
    told = f"{told}: log loss {in_brackets(change, signed=True)}. Go by the raw probabilities."
    yield _caution("calibration-worse", told, "calibration")


def _of_validation(files: RunFiles) -> Iterator[Caution]:
    if files.test is not None or files.splits is None:
        return
    fold = files.splits.folds[files.splits.config.fold]
    part = count_parts(files, fold)["val"]
    patients = part.cases if part.patients is None else part.patients
    if part.cases and patients < FEW_PATIENTS:
        sample = files.cases_of(part.cases, patients, "validation case")
        told = f"Only {sample} chose {_listed(list(_chosen(files)))}: others may choose otherwise."
        yield _caution("small-validation", told, "splits")


def _of_limits(files: RunFiles) -> Iterator[Caution]:
    """Limits of what is familiar that follow from the spread of few patients, and not from their order."""
    looks = (within(files.bundle, "familiar", "views") or {}).values()
    wide = {
        "validation patients for the limit of novelty": within(files.bundle, "novelty", "held") is False,
        "training patients for the limit of looks": any(own.get("held") is False for own in looks),
    }
    if names := [name for name, extrapolated in wide.items() if extrapolated]:
        told = (
            f"Too few {_listed(names)}: what is familiar is taken more widely, and more strange images pass."
        )
        yield _caution("small-validation", told, "abstention")


def _chosen(files: RunFiles) -> Iterator[str]:
    """What was chosen on the validation part."""
    bundle = files.bundle or {}
    yield "the epoch"
    if any(fit.get("parameters") for fit in within(bundle, "calibration", "fits") or ()):
        yield "the calibration"
    if bundle.get("operating_points") or bundle.get("thresholds"):
        yield "thresholds"
    if bundle.get("conformal"):
        yield "the sets of answers"
    if bundle.get("novelty"):
        yield "the limit of novelty"


def _of_probes(files: RunFiles) -> Iterator[Caution]:
    probes = files.probes
    if probes is None:
        return
    for found in probes.shortcuts:
        yield _caution("shortcut", found.sentence, "shortcuts")
    for leak in probes.leaks:
        code = "label-told" if leak.network_better else "told-without-looking"
        yield _caution(code, leak.sentence, "shortcuts")
    if probes.tiles is not None and probes.tiles < FEW_TILES:
        told = f"The search for shortcuts could ask about {counted(probes.tiles, 'tile')}: it says little."
        yield _caution("few-questions", told, "shortcuts")


def _of_maps(files: RunFiles) -> Iterator[Caution]:
    found = files.localization
    methods = found.overall.methods if found else None
    if found and methods and not_beaten(found, measure := main_measure(methods)):
        yield _caution("maps-miss", verdict(found, measure), "localization")
    verdicts = files.trust.verdicts if files.trust else {}
    method = within(files.study, "explain", "method") or next(iter(verdicts), "")
    told = verdicts.get(method)
    if told and not told.usable_for:
        yield _caution("maps-unusable", f"Heat maps by {method}: {told.sentence}", "trust")


_GATHERERS: tuple[Callable[[RunFiles], Iterator[Caution]], ...] = (
    _of_audit,
    _of_shift,
    _of_metrics,
    _of_images,
    _of_validation,
    _of_limits,
    _of_probes,
    _of_maps,
)


def _no_metadata(files: RunFiles) -> str:
    if files.probes is None:
        return "foveate probe has not run"
    return files.probes.metadata.reason or ""


def _no_localization(files: RunFiles) -> str:
    if files.localization is None:
        return "foveate localize has not run"
    return "" if files.localization.overall.methods else "nothing is marked"


_SHORTCUTS = "shortcuts in the image"
_QUESTIONS: dict[str, Callable[[RunFiles], str]] = {
    "leakage and contradictions in the data": lambda files: (
        "" if files.audit else "foveate audit has not run"
    ),
    "answers better than guessing": lambda files: "" if files.metrics else "foveate evaluate has not run",
    "labels told by metadata and files": _no_metadata,
    _SHORTCUTS: lambda files: "" if files.probes else "foveate probe has not run",
    "heat maps that point at what is marked": _no_localization,
    "heat maps that depend on the model": lambda files: "" if files.trust else "foveate trust has not run",
}
"""What the cautions come from, each with why it could not be asked; empty where it was."""


def in_brackets(value: Value, *, signed: bool = False) -> str:
    """A figure with its interval: ``0.72 [0.61, 0.81]``, with a sign in front if it is a difference."""
    form = "{:+.2f}" if signed else "{:.2f}"
    numbers = [form.format(number) for number in (value.value, value.low, value.high) if number is not None]
    text = numbers[0] + (f" [{', '.join(numbers[1:])}]" if len(numbers) == 3 else "")
    return text.replace("-", "−")


def _caution(code: str, sentence: str, section: str) -> Caution:
    return Caution(code=code, sentence=sentence, section=section)


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _sentence(text: str) -> str:
    """A text with a capital and a full stop."""
    text = text[0].upper() + text[1:]
    return text if text[-1] in ".!?…" else f"{text}."
