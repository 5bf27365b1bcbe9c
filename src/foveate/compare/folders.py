"""Runs that are there already, compared on the cases that all of them were tested on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from foveate import __version__
from foveate.compare.grid import differences
from foveate.compare.results import describe, read_entry
from foveate.errors import UsageError
from foveate.evaluate.comparing.comparison import (
    check_same_cases,
    compare,
    enough_replicates,
    only_shared_cases,
)
from foveate.evaluate.comparing.paired import RunFigures
from foveate.evaluate.intervals import Bootstrap
from foveate.evaluate.results.comparison import Comparison, RunOrigin, RunsProtocol
from foveate.evaluate.results.run import RunRecord
from foveate.files import sha256_of
from foveate.report.cautions import of_runs
from foveate.report.comparing.comparison import write_comparison
from foveate.report.comparing.side_by_side import evidence_tables
from foveate.report.files import RunFiles
from foveate.report.pictures.case_sheets import case_sheets
from foveate.report.published import published_by_class
from foveate.study.study import Study
from foveate.types import Track, quiet

_NEEDED = {"study.yaml": "run", "predictions.csv": "predict", "metrics.json": "evaluate"}


def compare_folders(
    runs: Mapping[str, Path],
    out: Path,
    *,
    reference: str | None = None,
    shared: bool = False,
    track: Track = quiet,
) -> Comparison:
    """Compare runs, paired by patient; writes ``comparison.json``, ``.csv``, ``.md`` and ``.html``.

    Args:
        runs: by label, their folders.
        out: folder of the comparison.
        reference: the label that the others are paired with in the table of differences; None takes the
            first. Every two runs are compared anyway.
        shared: compare the cases that all runs were tested on, where these are not the same.
        track: shows progress.

    Raises:
        UsageError: a run lacks a file, or they were tested on different cases; all problems are listed.
    """
    named = reference or next(iter(runs))
    studies = _studies(runs)
    entries: dict[str, dict[int, RunFigures]] = {
        label: {0: read_entry(folder)} for label, folder in runs.items()
    }
    notes = []
    if shared:
        entries, left_out = only_shared_cases(entries)
        notes += [f"{left_out} test cases that not all runs have are left out"] if left_out else []
    check_same_cases(
        entries, fix="" if shared else "give --shared to compare the cases that all of them have"
    )
    if not all(found[0].table.case_ids for found in entries.values()):
        raise UsageError("these runs have no test case in common", fix="compare runs of one cohort")
    settings = studies[named].evaluate
    replicates = max(settings.bootstrap, enough_replicates(entries, settings.level, every_pair=True))
    bootstrap = Bootstrap(replicates, settings.level, studies[named].seed)
    cases = case_sheets(runs, named)
    files = {label: RunFiles.read(folder) for label, folder in runs.items()}
    table = entries[named][0].table
    result = Comparison(
        name=" · ".join(runs),
        foveate=__version__,
        protocol=RunsProtocol(
            runs={label: _origin(folder, studies[label]) for label, folder in runs.items()}
        ),
        variants={
            label: describe(studies[label], _changes(studies[label], studies[named]), {0: folder}, out)
            for label, folder in runs.items()
        },
        **dict(compare(entries, named, bootstrap, track, every_pair=True)),
        published_by_class=published_by_class(table.classes, table.task),
        side_by_side=cases.listing,
        notes=tuple(notes),
        cautions=of_runs(files),
    )
    result.write(out)
    write_comparison(result, out, cases, evidence_tables(files))
    return result


def labelled(folders: Sequence[Path]) -> dict[str, Path]:
    """Name runs by what their paths do not have in common: ``a/runs/plain/seed0`` as ``plain``.

    Raises:
        UsageError: fewer than two, or one is named twice.
    """
    paths = [folder.absolute() for folder in folders]
    if len(paths) < 2 or len(set(paths)) < len(paths):
        raise UsageError(
            "a comparison needs two different runs", where="foveate compare", fix="foveate compare RUN RUN"
        )
    start, end = (_common([path.parts[::step] for path in paths]) for step in (1, -1))
    names = ["/".join(path.parts[start : len(path.parts) - end]) or path.name for path in paths]
    if len(set(names)) < len(names):  # one lies within the other
        names = [str(folder) for folder in folders]
    return dict(zip(names, folders, strict=True))


def folder_of(names: Iterable[str]) -> Path:
    """Where a comparison of these runs goes unless the user says otherwise."""
    joined = " vs ".join(name.strip("/").replace("/", "_") for name in names)
    return Path("comparisons") / (joined if len(joined) <= 100 else f"{joined[:99]}…")


def _common(paths: Sequence[tuple[str, ...]]) -> int:
    """How many parts from the start all paths have in common."""
    for count, parts in enumerate(zip(*paths, strict=False)):
        if len(set(parts)) > 1:
            return count
    return min(map(len, paths))


def _studies(runs: Mapping[str, Path]) -> dict[str, Study]:
    """The study of every run.

    Raises:
        UsageError: a folder lacks a file that is needed; all are listed.
    """
    lacking = [
        f"{folder} has no {name}: foveate {command} {folder}"
        for folder in runs.values()
        for name, command in _NEEDED.items()
        if not (folder / name).is_file()
    ]
    if lacking:
        raise UsageError(
            "not all of these can be compared\n" + "\n".join(f"  - {line}" for line in lacking),
            where="foveate compare",
            fix="give folders of runs that were predicted and evaluated",
        )
    return {label: Study.of_run(folder) for label, folder in runs.items()}


def _changes(study: Study, base: Study) -> list[str]:
    """What a run's study says otherwise than the reference's, besides the model."""
    return [line for line in differences(study, base) if line.partition(".")[0] != "model"]


def _origin(folder: Path, study: Study) -> RunOrigin:
    """Where a run lies, and what it was trained and tested on."""
    splits, record = folder / "splits.json", RunRecord.read(folder)
    return RunOrigin(
        folder=str(folder),
        manifest=study.data.manifest.name,
        manifest_sha256=record.hashes.manifest if record else None,
        splits_sha256=sha256_of(splits) if splits.is_file() else None,
    )
