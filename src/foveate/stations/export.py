"""The export station: trace the run's model, write it, ask the file real cases, and only then keep it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from foveate.bundle.bundle import load_bundle
from foveate.deploy.engines.bundled import Bundled
from foveate.deploy.engines.engine import Answer, Engine
from foveate.deploy.engines.facts import Facts
from foveate.deploy.engines.graph import AT_ONCE, read_case
from foveate.deploy.engines.opening import open_engine
from foveate.deploy.export.graph import (
    SUFFIXES,
    Format,
    check_installed,
    to_onnx,
    traced,
    write_onnx,
    write_openvino,
    write_torch,
)
from foveate.deploy.export.parity import Parity, compare, right
from foveate.deploy.export.pipeline import Pipeline
from foveate.deploy.export.quantize import quantized
from foveate.errors import InputRefused, MissingExtra, RunFailed, UsageError
from foveate.files import replacing
from foveate.stations.batches import cases_of
from foveate.stations.cautions import note_cautions
from foveate.stations.run import Run
from foveate.types import Case, Track, quiet

CASES = {2: 200, 3: 64}  # by axes of an image: so many of the validation part are asked of both
RANGES = 64  # of the training part, for the ranges of int8
ENGINES: dict[Format, tuple[str, ...]] = {
    "onnx": ("onnxruntime:f32", "openvino:f32", "openvino:bf16"),
    "openvino": ("openvino:f32", "openvino:bf16"),
    "torch": ("torch:f32",),
}
Writer = Callable[[Facts, Path], None]


@dataclass(frozen=True, slots=True)
class Exported:
    """What came of an export.

    Attributes:
        path: of the file.
        facts: that it carries.
        parities: what each engine's answers were like; ``auto`` avoids bfloat16 where it failed.
        right: share of right decisions on these cases, of the run and of the file.
    """

    path: Path
    facts: Facts
    parities: tuple[Parity, ...]
    right: tuple[float, float]


def export_run(
    run: Run, to: Format, out: Path | None = None, *, int8: bool = False, track: Track = quiet
) -> Exported:
    """Write the model of a run as one file, after real cases have shown that it is the run.

    Args:
        run: with a bundle; cases of its validation part are asked.
        to: format of the file.
        out: the file [default: ``model.onnx``, ``model.openvino`` or ``model.pt2`` in the run's folder].
        int8: quantize the convolutions; what that costs is told and not bounded.
        track: shows progress.

    Raises:
        MissingExtra: what writes this format is not installed.
        UsageError: the study or the format has something that cannot be exported so.
        RunFailed: the model cannot be traced, or the file is not the run (``parity-failed``); nothing is
            written.
    """
    run.refuse_external("export")
    check_installed(to)
    out = out or run.folder / f"model{SUFFIXES[to]}"
    if out.suffix != SUFFIXES[to]:
        raise UsageError(f"a file for {to} ends in {SUFFIXES[to]}", where=str(out), fix="rename it with -o")
    if int8 and to == "torch":
        raise UsageError("int8 is for onnx and openvino", where="--int8", fix="leave it out")
    with run.station("export"):
        reference = Bundled(load_bundle(run.path("bundle", made_by="train")))
        reference.facts = replace(reference.facts, cautions=note_cautions(run).for_others().to_json())
        asked = _some(run, "val", CASES[len(reference.facts.preprocess.size)], reference.facts)
        ours = _answers(reference, asked, track, "Asking the run")
        if not ours:
            raise RunFailed(
                "there is no validation case to compare with that an exported file can read",
                where=str(run.folder),
                fix="if the pixels of all images are oblong, train with preprocess.aspect: pixels",
            )
        ranges = _some(run, "train", RANGES, reference.facts) if int8 else ()
        facts, write = _writer(reference, to, ranges)
        with replacing(out) as temporary:
            write(facts, temporary)
            parities, theirs = _gate(temporary, to, reference.facts, ours, track)
            facts = replace(facts, passed=tuple(each.engine for each in parities if not each.problems()))
            write(facts, temporary)
    shares = right(facts, [answer for _, answer in ours]), right(facts, theirs)
    return Exported(out, facts, tuple(parities), shares)


def _writer(reference: Bundled, to: Format, ranges: Sequence[Case]) -> tuple[Facts, Writer]:
    """The facts of a file to be, and what writes it; quantized if there are cases for the ranges.

    Should a graph be unable to hold the gradient that maps of classes take, the file has everything else.
    """
    pipeline = Pipeline(reference.bundle)
    try:
        return _written(pipeline, reference.facts, to, ranges)
    except RunFailed:
        if not pipeline.by_gradient:
            raise
        return _written(Pipeline(reference.bundle, class_maps=False), reference.facts, to, ranges)


def _written(pipeline: Pipeline, facts: Facts, to: Format, ranges: Sequence[Case]) -> tuple[Facts, Writer]:
    facts = facts if pipeline.explains else replace(facts, explainer="")
    program, names = traced(pipeline.eval().requires_grad_(False), facts)
    if to == "torch":
        return facts, partial(write_torch, program)
    model = to_onnx(program, names, facts)
    if ranges:
        facts = replace(facts, precision="int8")
        model = quantized(model, facts, [read_case(facts, case) for case in ranges])
    return facts, partial(write_onnx if to == "onnx" else write_openvino, model)


def _gate(
    path: Path, to: Format, facts: Facts, ours: Sequence[tuple[Case, Answer]], track: Track
) -> tuple[list[Parity], list[Answer]]:
    """Ask the file the same cases through every engine that is installed and can run it.

    Returns:
        What each was like, and the answers of the first.

    Raises:
        RunFailed: an engine in float32 gives other answers than the run.
    """
    parities: list[Parity] = []
    first: list[Answer] = []
    for name in ENGINES[to]:
        try:
            engine = open_engine(path, name)
        except (MissingExtra, UsageError):  # not installed, or no bfloat16 on this machine
            continue
        theirs = [
            answer for _, answer in _answers(engine, [case for case, _ in ours], track, f"Asking {name}")
        ]
        first = first or theirs
        precision = "int8" if engine.facts.precision == "int8" else name.partition(":")[2]
        parities.append(compare(name, precision, (facts, engine.facts), [each for _, each in ours], theirs))
    if failed := [each for each in parities if each.precision != "bf16" and each.problems()]:
        raise RunFailed(
            f"the file is not the run: asked {len(ours)} cases, {failed[0].engine} says otherwise: "
            + "; ".join(failed[0].problems()),
            where=str(path.suffix),
            fix="nothing was written; use the run itself, and please report this",
            code="parity-failed",
        )
    return parities, first


def _answers(
    engine: Engine[Any], cases: Sequence[Case], track: Track, what: str
) -> list[tuple[Case, Answer]]:
    """Cases with their answers, without those that are refused."""
    found: list[tuple[Case, Answer]] = []
    for start in track(range(0, len(cases), AT_ONCE), what):
        ready = []
        for case in cases[start : start + AT_ONCE]:
            with contextlib.suppress(InputRefused):
                ready.append((case, engine.read(case)))
        answers = engine.predict([each for _, each in ready])
        found += zip([case for case, _ in ready], answers, strict=True)
    return found


def _some(run: Run, part: str, most: int, facts: Facts) -> list[Case]:
    """At most so many cases of a part, evenly from its whole length, without those that no graph reads."""
    cases = cases_of(run, run.cohort(), (part,))
    step = max(len(cases) / most, 1)
    chosen = [cases[int(place * step)] for place in range(min(most, len(cases)))]
    return [case for case in chosen if _is_read(facts, case)]


def _is_read(facts: Facts, case: Case) -> bool:
    try:
        read_case(facts, case)
    except InputRefused:
        return False
    return True
