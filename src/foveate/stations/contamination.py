"""Does a new test set hold what a model learned from? Patients, and images, the same or nearly the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from foveate.data.audit.audit import audit_cohort
from foveate.data.audit.findings import Check, finding
from foveate.data.audit.gathered import Evidence, gather
from foveate.data.known import learned_names
from foveate.errors import FoveateError
from foveate.evaluate.results.audit import Audit, Finding
from foveate.stations.batches import cases_of
from foveate.stations.elsewhere import read_elsewhere
from foveate.stations.run import Run
from foveate.study.study import DataConfig
from foveate.types import Case, Track, quiet

if TYPE_CHECKING:
    from foveate.bundle.bundle import Bundle

SEEN_CODES = ("training-patients", "training-images")  # findings whose cases the model learned from
_SHOWN = 5


def audit_against(folder: Path, manifest: Path, *, allow: Sequence[str] = (), track: Track = quiet) -> Audit:
    """Audit a cohort as a test set for a model.

    Patients and images are known by what the bundle keeps of them (``data.known``). Bundles of version 0.1.0
    know exact copies only; where ``folder`` is a run whose own manifest and images can still be read, nearly
    the same images are looked for among those.

    Args:
        folder: a run, or a bundle.
        manifest: CSV of the cohort; its columns are called as in the run's study.
        allow: codes of findings to accept.
        track: shows progress.

    Returns:
        The audit, with ``training-patients``, ``training-images`` and ``training-images-unknown`` among its
        findings; call ``raise_if_stopped`` on it.
    """
    from foveate.bundle.bundle import load_bundle

    bundle, run = load_bundle(folder), Run.open(folder) if (folder / "study.yaml").is_file() else None
    data = DataConfig(manifest=manifest) if run is None else run.study.data
    data = data.model_copy(update={"manifest": manifest, "boxes": None})
    cohort = read_elsewhere(bundle, data, track=track)
    settings = bundle.preprocess.config
    more = (recognise(bundle, run, track),)
    return audit_cohort(cohort, allow=allow, more=more, preprocess=settings, track=track)


def recognise(
    bundle: Bundle, run: Run | None, track: Track = quiet, *, set_apart: bool | None = None
) -> Check:
    """The check of an audit that finds what a model learned from.

    Args:
        bundle: of the model.
        run: that made it, if it is here: it names the images that were learned from.
        track: shows progress.
        set_apart: of a test, whether the cases that are found will be no part of it, and stop nothing; None
            where nothing is tested yet.
    """

    def check(evidence: Evidence) -> Iterator[Finding]:
        found = [
            *_known_patients(bundle, evidence),
            *_known_images(_known(bundle, run, evidence, track), evidence),
        ]
        for each in found:
            if each.code not in SEEN_CODES or set_apart is None:
                yield each
            elif set_apart:
                message = f"{each.message}; set apart, so that no figure rests on them"
                yield each.model_copy(update={"severity": "note", "message": message})
            else:
                others = "; other people under the same numbers need other ids"
                ways = "; --set-apart tests without them" + others * (each.code == "training-patients")
                yield each.model_copy(update={"message": each.message + ways})

    return check


@dataclass(frozen=True, slots=True)
class _Known:
    """Cases of a cohort whose images the model learned from.

    Attributes:
        same: by case id, the name of the image with the same pixels.
        near: by case id, the name of the image that is nearly the same.
        lacking: what could not be looked for, and why.
    """

    same: Mapping[str, str]
    near: Mapping[str, str]
    lacking: tuple[str, ...] = ()


def _known(bundle: Bundle, run: Run | None, evidence: Evidence, track: Track) -> _Known:
    """What a bundle, or else the images of its run, know again."""
    if bundle.images is not None and bundle.images.looks:
        return _recognised(bundle, run, evidence)
    found = _Known({}, {}) if bundle.images is None else _recognised(bundle, run, evidence)
    learned, why_not = _learned_from(run)
    near = _near(learned, evidence, track)
    lacking = ["copies, as the bundle does not know its images"] if bundle.images is None else []
    lacking += (
        [f"nearly the same images, as the bundle keeps no looks of its images and {why_not}"]
        if why_not
        else []
    )
    return _Known(
        found.same, {name: text for name, text in near.items() if name not in found.same}, tuple(lacking)
    )


def _recognised(bundle: Bundle, run: Run | None, evidence: Evidence) -> _Known:
    """What the bundle itself knows again; the run, if it is here, has the names."""
    cases, images = evidence.cohort.cases, bundle.images
    assert images is not None
    names = {} if run is None else learned_names(images, run.folder)
    found = images.recognise(evidence.looks, [case.patient_id for case in cases])
    named = {True: dict[str, str](), False: dict[str, str]()}
    for (index, _), item in found.items():
        named[item.same].setdefault(cases[index].case_id, names.get(item.image, "one of its images"))
    return _Known(named[True], {name: text for name, text in named[False].items() if name not in named[True]})


def _known_patients(bundle: Bundle, evidence: Evidence) -> Iterator[Finding]:
    cases = [case for case in evidence.cohort.cases if case.patient_id in bundle.patients]
    if cases:
        names = sorted({case.patient_id for case in cases})
        total = len({case.patient_id for case in evidence.cohort.cases})
        message = f"the model learned from {len(names)} of these {total} patients: {_some(names)}"
        if spelt := [name for name in names if bundle.patients.by_spelling(name)]:
            message += f" (spelt otherwise there: {_some(spelt)})"
        yield _finding("training-patients", message, cases)


def _known_images(known: _Known, evidence: Evidence) -> Iterator[Finding]:
    """Images that the model learned from, by their hashes or by their looks."""
    if known.same or known.near:
        cases = [case for case in evidence.cohort.cases if case.case_id in {*known.same, *known.near}]
        examples = [f"{name} (the same pixels as {other})" for name, other in known.same.items()]
        examples += [f"{name} (nearly {other})" for name, other in known.near.items()]
        share = f"{len(cases)} of these {len(evidence.cohort.cases)} cases"
        message = f"the model learned from the images of {share}: {_some(examples)}"
        yield _finding("training-images", message, cases)
    if known.lacking:
        yield _finding("training-images-unknown", f"not looked for: {'; '.join(known.lacking)}", [])


def _near(learned: Sequence[Case], evidence: Evidence, track: Track) -> dict[str, str]:
    """Cases whose images are copies, exact or near, of images whose files the model learned from."""
    if not learned:
        return {}
    joint = replace(evidence.cohort, cases=(*learned, *evidence.cohort.cases))
    found: dict[str, str] = {}
    for group in gather(joint, None, track).twins:
        old = [joint.cases[index].case_id for index in group if index < len(learned)]
        if old:
            found |= {joint.cases[index].case_id: old[0] for index in group if index >= len(learned)}
    return found


def _learned_from(run: Run | None) -> tuple[list[Case], str]:
    """The cases that a run's model learned from; or none, and why they are not known."""
    if run is None:
        return [], "the run that made it is not here"
    try:
        return cases_of(run, run.cohort(), ("train", "val")), ""
    except FoveateError as error:
        return [], f"the manifest that it learned from cannot be read ({error.code})"


def _finding(code: str, message: str, cases: Sequence[Case]) -> Finding:
    return finding(code, message, [case.case_id for case in cases])


def _some(texts: Sequence[str]) -> str:
    return "; ".join(texts[:_SHOWN]) + ("; …" if len(texts) > _SHOWN else "")
