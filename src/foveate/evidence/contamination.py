"""Does a new test set hold what a model learned from? Patients, and images, the same or nearly the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from foveate.bundle import Bundle, load_bundle
from foveate.data.audit import Audit, audit_cohort
from foveate.data.evidence import Evidence, gather
from foveate.data.findings import SEVERITY, Finding
from foveate.data.manifest import load_manifest
from foveate.errors import FoveateError
from foveate.run import Run
from foveate.stations import cases_of
from foveate.types import Case, Cohort, Track, quiet

_SHOWN = 5


def audit_against(folder: Path, manifest: Path, *, allow: Sequence[str] = (), track: Track = quiet) -> Audit:
    """Audit a cohort as a test set for a model.

    Patients and exact copies of images are known by the salted hashes in the bundle. Where ``folder`` is a
    run whose own manifest and images can still be read, nearly the same images are looked for as well.

    Args:
        folder: a run, or a bundle.
        manifest: CSV of the cohort; its columns are called as in the run's study.
        allow: codes of findings to accept.
        track: shows progress.

    Returns:
        The audit, with ``training-patients``, ``training-images`` and ``training-images-unknown`` among its
        findings; call ``raise_if_stopped`` on it.
    """
    bundle, run = load_bundle(folder), Run.open(folder) if (folder / "study.yaml").is_file() else None
    cohort = _cohort(run, bundle, manifest, track)
    learned, why_not = _learned_from(run)

    def contamination(evidence: Evidence) -> Iterator[Finding]:
        yield from _known_patients(bundle, evidence)
        yield from _known_images(bundle, evidence, _near(learned, cohort, track), why_not)

    return audit_cohort(cohort, allow=allow, more=(contamination,), track=track)


def _known_patients(bundle: Bundle, evidence: Evidence) -> Iterator[Finding]:
    cases = [case for case in evidence.cohort.cases if case.patient_id in bundle.patients]
    if cases:
        names = sorted({case.patient_id for case in cases})
        total = len({case.patient_id for case in evidence.cohort.cases})
        message = f"the model learned from {len(names)} of these {total} patients: {_some(names)}"
        yield _finding("training-patients", message, cases)


def _known_images(
    bundle: Bundle, evidence: Evidence, near: Sequence[tuple[Case, str]], why_not: str
) -> Iterator[Finding]:
    """Images that the model learned from, by their hashes or by their looks."""
    same = {}
    if bundle.images is not None:
        seen = ((index, look.digest) for (index, _), look in evidence.looks.seen.items())
        same = {
            evidence.cohort.cases[index].case_id: index for index, digest in seen if digest in bundle.images
        }
    alike = {case.case_id: text for case, text in near if case.case_id not in same}
    if same or alike:
        cases = [case for case in evidence.cohort.cases if case.case_id in {*same, *alike}]
        examples = _some([*(f"{name} (the same pixels)" for name in same), *alike.values()])
        share = f"{len(cases)} of these {len(evidence.cohort.cases)} cases"
        message = f"the model learned from the images of {share}: {examples}"
        yield _finding("training-images", message, cases)
    if bundle.images is None or why_not:
        lacking = [
            *(["copies, as the bundle does not know its images"] if bundle.images is None else []),
            *([f"nearly the same images, as {why_not}"] if why_not else []),
        ]
        yield _finding("training-images-unknown", f"not looked for: {'; '.join(lacking)}", [])


def _near(learned: Sequence[Case], cohort: Cohort, track: Track) -> list[tuple[Case, str]]:
    """Cases of a cohort whose images are copies, exact or near, of images that the model learned from."""
    if not learned:
        return []
    joint = replace(cohort, cases=(*learned, *cohort.cases))
    found = []
    for group in gather(joint, None, track).twins:
        old = [joint.cases[index].case_id for index in group if index < len(learned)]
        new = [joint.cases[index] for index in group if index >= len(learned)]
        if old:
            found += [(case, f"{case.case_id} (nearly {old[0]})") for case in new]
    return found


def _learned_from(run: Run | None) -> tuple[list[Case], str]:
    """The cases that a run's model learned from; or none, and why they are not known."""
    if run is None:
        return [], "this is a bundle without the run that made it"
    try:
        return cases_of(run, run.cohort(), ("train", "val")), ""
    except FoveateError as error:
        return [], f"the manifest that it learned from cannot be read ({error.code})"


def _cohort(run: Run | None, bundle: Bundle, manifest: Path, track: Track) -> Cohort:
    """Read the manifest with the names of columns that the run's study has."""
    single = bundle.task == "multiclass"
    findings = None if single else bundle.classes
    classes = bundle.classes if single else None
    if run is None:
        return load_manifest(manifest, findings=findings, classes=classes, views=bundle.views, track=track)
    data = run.study.data
    return load_manifest(
        manifest,
        label=data.label,
        findings=findings,
        classes=classes,
        views=data.views,
        patient=data.patient,
        case=data.case,
        track=track,
    )


def _finding(code: str, message: str, cases: Sequence[Case]) -> Finding:
    return Finding(code, SEVERITY[code], message, tuple(case.case_id for case in cases))


def _some(texts: Sequence[str]) -> str:
    return "; ".join(texts[:_SHOWN]) + ("; …" if len(texts) > _SHOWN else "")
