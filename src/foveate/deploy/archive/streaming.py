"""An archive, start to end: it is listed, its shards go through an engine, and become one table.

Inside a shard files are read a little ahead of the network, and never more than ``MOST_BYTES`` of pixels wait
for it. Whatever goes wrong with one case, be it an error that nobody foresaw, is noted for this case, and the
others go on.
"""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from foveate.data.manifest.parquet import pyarrow
from foveate.data.manifest.paths import Root
from foveate.deploy.archive.listing import FolderLines, Line, Naming, case_of, cut, manifest_lines
from foveate.deploy.archive.maps import Fields, begin_maps, write_maps
from foveate.deploy.archive.results import (
    Refusal,
    join_parts,
    join_refused,
    write_part,
    write_refused,
)
from foveate.deploy.archive.work import ArchiveJob, ArchivePlan, Done, alone, read_lines, suffix_of
from foveate.deploy.engines.engine import Answer, Engine
from foveate.deploy.engines.facts import Facts
from foveate.deploy.engines.opening import open_engine
from foveate.errors import InputRefused, UsageError
from foveate.evaluate.table import SEEN, columns_of
from foveate.files import sha256_of
from foveate.io.reading import read_image, read_mask
from foveate.parallel import read_ahead
from foveate.prepare.geometry import FieldOfView
from foveate.types import Track, quiet

BATCH, VOLUME_BATCH = 32, 2  # most cases at once
MOST_BYTES = 64 * 2**20  # of decoded pixels at once; a single case may be larger
AHEAD = 8  # files that are read before they are needed
READERS = 2  # threads that read
VOLUMES = 3  # files that are remembered while the slices of a volume are gone through
Before = Callable[[int | None], None]
Describe = Callable[[Path, str], tuple[str, Facts]]
Runner = Callable[[ArchiveJob, Sequence[int]], Iterator[Done]]  # shards → what came of each, in any order


@dataclass(frozen=True, slots=True)
class Archive:
    """What is to be predicted, by what, and into what.

    Attributes:
        model: a run, a bundle or an exported file.
        source: a folder of images, or a manifest.
        out: a ``.parquet`` or ``.csv`` file, or a folder for parts.
        maps: folder for the maps of all classes; None for none.
        engine: as ``open_engine`` takes it.
        shard: cases that are written together.
        naming: what the columns of the manifest are called.
    """

    model: Path
    source: Path
    out: Path
    maps: Path | None = None
    engine: str = "auto"
    shard: int = 500
    naming: Naming = field(default_factory=Naming)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of an archive.

    Attributes:
        table: the ``.parquet`` or ``.csv``, or the folder of its parts.
        refused: CSV of the cases that could not be predicted.
        plan: what it was begun with.
        done: counts.
        engine: that ran it.
    """

    table: Path
    refused: Path
    plan: ArchivePlan
    done: Done


def described(model: Path, engine: str) -> tuple[str, Facts]:
    """The engine that runs a model, with its precision where that was named, and what the model is."""
    opened = open_engine(model, engine)
    option = engine.partition(":")[2]
    return opened.name + (f":{option}" if option else ""), opened.facts


def predict_archive(
    archive: Archive, run_shards: Runner, track: Track = quiet, describe: Describe = described
) -> Outcome:
    """Predict an archive, or go on with one where it stopped.

    Args:
        archive: what is to be done.
        run_shards: who does it: ``workers.here(N)`` or ``ray.on_cluster(N)``.
        track: shows progress.
        describe: opens the model to say what it is; ``workers.described_elsewhere`` does so in a process that
            ends then, so that this one never holds it.

    Raises:
        UsageError: what is there already was begun with something else, or somebody is at work on it.
        InputRefused: the model or the source cannot be used.
        RunFailed: work stopped; the same command goes on.
    """
    single = archive.out.suffix != ""
    base = archive.out.with_name(archive.out.name + ".work") if single else archive.out
    job = _job(archive, base.absolute())
    if job.suffix == ".parquet":
        pyarrow()
    if not job.work.is_dir() and (archive.out.is_file() or (base.is_dir() and any(base.iterdir()))):
        raise UsageError(
            "this exists already", where=str(archive.out), fix="name another --out, or remove it"
        )
    with alone(job.work):
        job, plan = _begun(archive, job, describe)
        left = [shard for shard in range(plan.shards) if job.outcome(shard) is None]
        for _ in zip(
            track(left, f"Predicting {archive.shard} at a time"), run_shards(job, left), strict=True
        ):
            pass
        outcome = _finished(archive, job, plan)
    _remove(base if single else job.work)
    return outcome


def _job(archive: Archive, base: Path) -> ArchiveJob:
    source = archive.source.resolve()
    return ArchiveJob(
        model=archive.model.absolute(),
        engine=archive.engine,
        base=base,
        root=source if source.is_dir() else source.parent,
        suffix=suffix_of(archive.out),
        maps=archive.maps.absolute() if archive.maps else None,
    )


def _begun(archive: Archive, job: ArchiveJob, describe: Describe) -> tuple[ArchiveJob, ArchivePlan]:
    """The plan: the one that is there if it is the same, else a new one with its shards listed."""
    engine, facts = describe(archive.model, archive.engine)
    job, path, folder = replace(job, engine=engine), job.work / "plan.json", archive.source.is_dir()
    plan = ArchivePlan(
        source=str(archive.source.resolve()),
        source_sha256="" if folder or not archive.source.is_file() else sha256_of(archive.source),
        engine=job.engine,
        model=hashlib.sha256(facts.to_text().encode()).hexdigest(),
        maps=str(job.maps or ""),
        suffix=job.suffix,
    )
    if (there := ArchivePlan.read(path)) is not None:
        there.must_be(plan, archive.out)
        return job, there
    if job.maps is not None:
        begin_maps(job.maps, facts)
    lines = FolderLines(job.root, facts) if folder else None
    cases, shards = cut(lines or manifest_lines(archive.source, facts, archive.naming), job, archive.shard)
    if not cases:
        raise InputRefused("there is no case in it", where=str(archive.source), code="no-cases")
    plan = replace(plan, cases=cases, shards=shards, passed_over=lines.passed_over if lines else 0)
    plan.write(path)
    return job, plan


def _finished(archive: Archive, job: ArchiveJob, plan: ArchivePlan) -> Outcome:
    """Put all shards together, and check that no case is missing."""
    outcomes = [job.outcome(shard) for shard in range(plan.shards)]
    done = sum((each for each in outcomes if each is not None), Done())
    if done.shards != plan.shards or done.predicted + sum(done.refused.values()) != plan.cases:
        raise AssertionError(f"{plan} became {done}")
    for folder in filter(None, (job.base / "predictions", job.maps)):
        for torn in folder.glob(".part-*"):  # of processes that were killed while they wrote
            torn.unlink(missing_ok=True)
    out = archive.out
    single = out.suffix != ""
    refused = out.with_suffix(".refused.csv") if single else out / "refused.csv"
    join_refused(job, plan.shards, refused)
    if single:
        join_parts(job, plan.shards, out)
    return Outcome(out if single else out / "predictions", refused, plan, done)


def _remove(folder: Path) -> None:
    """Remove a folder that is not needed any more; under its name it is gone at once or still whole."""
    old = folder.with_name(f".{folder.name}.old")
    folder.replace(old)
    shutil.rmtree(old)


# ---- one shard ----------------------------------------------------------------------------------------


def predict_shard(
    engine: Engine[Any],
    job: ArchiveJob,
    shard: int,
    *,
    blamed: Collection[int] = (),
    before: Before | None = None,
) -> Done:
    """Predict the cases of one shard and write what came of them.

    Args:
        engine: the model.
        job: says where everything lies.
        shard: number of the shard.
        blamed: rows at which the process died before; they are refused unread.
        before: is told the row of each case before it is read, and None after the last; cases then go one
            by one.
    """
    lines = read_lines(job.cases(shard))
    refused = [Refusal(**line) for line in lines if "code" in line]
    refused += [_deadly(line) for line in lines if line["row"] in blamed and "code" not in line]
    good = [line for line in lines if "code" not in line and line["row"] not in blamed]
    answers, fields = [], []
    for outcome in _answers(engine, job, good, before):
        if isinstance(outcome, Refusal):
            refused.append(outcome)
        else:
            answers.append(outcome[0])
            fields.append(outcome[1])
    predictions = [
        replace(each, split=SEEN if _learned_from(engine, each.patient_id) else "test")
        for each in (answer.prediction for answer in answers)
    ]
    facts = engine.facts
    columns = columns_of(
        facts.task, facts.classes, predictions, thresholds=facts.thresholds, further=facts.further
    )
    write_part(job.part(shard), columns)
    write_refused(job, shard, sorted(refused, key=lambda each: each.row))
    if job.maps is not None:
        write_maps(job.maps / f"part-{shard:05d}.npz", engine.facts, answers, fields)
    seen = sum(each.split == SEEN for each in predictions) if engine.name == "bundle" else None
    done = Done(1, len(predictions), seen, dict(Counter(each.code for each in refused)))
    job.finish_shard(shard, done)
    return done


def _deadly(line: Line) -> Refusal:
    what = "the process died whenever it came to this case"
    return Refusal(line["case_id"], line["row"], "process-died", "", what)


def _learned_from(engine: Engine[Any], patient_id: str) -> bool | None:
    """Whether the model learned from a patient; None for an exported file, which does not tell."""
    if engine.name != "bundle":
        return None
    from foveate.deploy.engines.bundled import Bundled  # torch, which is here already

    return isinstance(engine, Bundled) and patient_id in engine.bundle.patients


def _answers(
    engine: Engine[Any], job: ArchiveJob, lines: Sequence[Line], before: Before | None
) -> Iterator[tuple[Answer, Fields] | Refusal]:
    """What comes of each case; in the order of the lines but for refusals, which come as they are found."""
    largest = VOLUME_BATCH if engine.facts.preprocess.volumes else BATCH
    most = 1 if before else largest
    batch: list[tuple[Line, Any]] = []
    size = 0
    for line, ready in _read(engine, job, lines, before):
        if isinstance(ready, Exception):
            yield Refusal.because(line["case_id"], line["row"], ready)
            continue
        batch.append((line, ready))
        size += _bytes_of(ready)
        if len(batch) == most or size >= MOST_BYTES:
            yield from _asked(engine, batch)
            batch, size = [], 0
    yield from _asked(engine, batch)


def _read(
    engine: Engine[Any], job: ArchiveJob, lines: Sequence[Line], before: Before | None
) -> Iterator[tuple[Line, Any]]:
    """Each case as the engine wants it, or the error that it ended with; ``AHEAD`` files are read ahead."""
    sliced = any("slice" in line for line in lines)
    images = lru_cache(VOLUMES)(read_image) if sliced else read_image
    masks = lru_cache(VOLUMES)(read_mask) if sliced else read_mask
    root = Root.at(job.root)

    def attempt(line: Line) -> tuple[Line, Any]:
        try:
            return line, engine.read(case_of(line, root), image_reader=images, mask_reader=masks)
        except Exception as error:
            return line, error

    if before is None:
        yield from read_ahead(attempt, lines, READERS, ahead=AHEAD)
        return
    for line in lines:
        before(line["row"])
        yield attempt(line)
    before(None)


def _asked(
    engine: Engine[Any], batch: Sequence[tuple[Line, Any]]
) -> Iterator[tuple[Answer, Fields] | Refusal]:
    """Answers to a batch; if it fails, to each case alone, so that only the one that fails is refused."""
    if not batch:
        return
    try:
        answers = engine.predict([ready for _, ready in batch])
    except Exception as error:
        if len(batch) == 1:
            line = batch[0][0]
            yield Refusal.because(line["case_id"], line["row"], error)
            return
        for one in batch:
            yield from _asked(engine, [one])
        return
    for (line, ready), answer in zip(batch, answers, strict=True):
        if np.isfinite(answer.prediction.logits).all():
            yield answer, _fields_of(ready)
        else:
            what = "the model's answer is not finite"
            yield Refusal(line["case_id"], line["row"], "not-finite-answer", "", what)


def _bytes_of(ready: Any) -> int:
    """Bytes of decoded pixels that a case holds; what a bundle prepared is small already."""
    return sum(each.nbytes for each in getattr(ready, "pixels", {}).values())


def _fields_of(ready: Any) -> Fields:
    """Where the model's field lies in the image of each view."""
    if hasattr(ready, "fields"):  # of an exported file
        return dict(ready.fields)
    fields = {view: prepared.field for view, prepared in ready.views.items()}
    return {view: field for view, field in fields.items() if isinstance(field, FieldOfView)}
