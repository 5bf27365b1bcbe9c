"""Shortcuts: does the model read its answer where nothing of the disease is? Writes ``probes.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from foveate.data.manifest.boxes import read_boxes
from foveate.data.manifest.rows import read_table
from foveate.errors import InputRefused, ManifestRefused, UsageError
from foveate.evaluate.intervals import Bootstrap, Floats
from foveate.evaluate.results.bootstrap import BootstrapFacts
from foveate.evaluate.results.probes import (
    Alone,
    Grid,
    Probes,
    TileGrid,
    ViewAlone,
    ViewAttribution,
    ViewProbe,
)
from foveate.io.reading import probe as probe_image
from foveate.maps.heatmaps import read_index
from foveate.stations.batches import cases_of, raise_if_partial
from foveate.stations.cautions import note_cautions
from foveate.stations.run import Run
from foveate.stations.shortcuts.alone import Kind, background_alone, masks_alone, metadata_alone
from foveate.stations.shortcuts.attribution import attribution_shares
from foveate.stations.shortcuts.exchange import measure
from foveate.stations.shortcuts.findings import list_leaks, list_shortcuts, sentences, what_was_asked
from foveate.stations.shortcuts.inside import marked_questions
from foveate.stations.shortcuts.material import ProbeMaterial, find_places, load_material
from foveate.stations.shortcuts.questions import (
    AskedView,
    ProbeQuestion,
    Test,
    ask_view,
    candidates,
    correct,
    merge_tiles,
    whole_regions,
)
from foveate.stations.truths import CaseFiles
from foveate.types import Box, Case, Geometry, Track, quiet

if TYPE_CHECKING:
    from torch import Tensor

    from foveate.bundle.bundle import Bundle

REPLICATES = 2000  # at least, so that p-values are fine enough to be corrected
SCREENING = 96  # validation cases
TRAINING, TRAINING_BYTES = 1000, 512e6  # training cases for the models of metadata and background, at most
VOLUME_CASES = 48
NOTHING_LEARNED = "there is no training case with a known truth"


def probe(
    run: Run, part: str = "test", *, named: Mapping[str, Path] | None = None, track: Track = quiet
) -> Probes:
    """Look for shortcuts; writes ``probes.json``.

    Args:
        run: with a bundle; with heat maps, if their shares shall be told.
        part: whose cases are asked.
        named: further regions by name: a CSV of boxes as ``foveate.data.manifest.boxes`` reads them, such
            as those of markers.
        track: shows progress.

    Returns:
        What ``probes.json`` holds.

    Raises:
        Partial: some cases were refused; the others are in the file.
    """
    from foveate.bundle.bundle import load_bundle

    with run.station("probe"):
        refused: list[InputRefused] = []
        bundle = load_bundle(run.path("bundle", made_by="train"))
        parts = _load(run, bundle, part, refused, track)
        tiles, seed = run.study.probe.tiles, run.study.seed
        asked = [found for view in bundle.views if (found := ask_view(parts, view, tiles, seed, track))]
        not_tested = [
            f"{view}: fewer than two patients have it"
            for view in bundle.views
            if view not in {own.name for own in asked}
        ]
        boxes = _user_boxes(run, named or {})
        questions = [
            *candidates(asked),
            *whole_regions(asked, boxes, not_tested),
            *marked_questions(asked, not_tested),
        ]
        settings = run.study.evaluate
        bootstrap = Bootstrap(max(settings.bootstrap, REPLICATES), settings.level, seed)
        tests = _exchange(asked, questions, bootstrap, track)
        result = _tell(run, part, parts, asked, tests, bootstrap, not_tested=not_tested)
        result.write(run.folder)
    note_cautions(run)
    raise_if_partial(refused, f"probed {result.n} cases")
    return result


def _load(
    run: Run, bundle: Bundle, part: str, refused: list[InputRefused], track: Track
) -> dict[str, ProbeMaterial]:
    """Cases of each part under the names ``train``, ``val`` and ``test`` (the part that is asked)."""
    cohort, limit = run.cohort(), run.study.probe.cases
    bytes_each = 6 * len(bundle.views) * float(np.prod(bundle.preprocess.config.size))
    limits = {
        "train": min(TRAINING, int(TRAINING_BYTES / bytes_each)),
        "val": min(limit, SCREENING),
        "test": limit,
    }
    if bundle.preprocess.config.volumes:
        limits = {name: min(most, VOLUME_CASES) for name, most in limits.items()}
    found = {}
    for name, most in limits.items():
        known = [
            case
            for case in cases_of(run, cohort, [part if name == "test" else name])
            if not np.isnan(cohort.target(case)).all() and set(case.views) & set(bundle.views)
        ]
        if known and not (name == "val" and part == "val"):
            cases = in_turns(known, most, run.study.seed)
            found[name] = load_material(bundle, cases, refused, track, f"Preparing {name} cases")
    if "test" not in found:
        raise UsageError(f"no case of '{part}' has a known truth", where="--part", fix="choose another part")
    return found


def in_turns(cases: Sequence[Case], limit: int, seed: int) -> list[Case]:
    """At most ``limit`` cases, in random order, of each class (or first finding) by turns."""
    order = np.random.default_rng(seed).permutation(len(cases))
    groups: dict[str, list[Case]] = {}
    for index in order:
        case = cases[index]
        present = [name for name, value in case.findings.items() if value == 1]
        groups.setdefault(case.label or (present[0] if present else ""), []).append(case)
    turns = [case for turn in range(len(cases)) for own in groups.values() for case in own[turn : turn + 1]]
    return turns[:limit]


def _exchange(
    asked: Sequence[AskedView], questions: Sequence[ProbeQuestion], bootstrap: Bootstrap, track: Track
) -> list[Test]:
    """Ask every question, correct for their number, and put together the tiles that were found."""
    tests = [
        Test(
            item,
            measure(
                item.view.cases,
                item.region,
                item.view.original,
                item.view.donors,
                bootstrap,
                remove=item.label is None and item.removed,
            ),
        )
        for item in track(questions, "Exchanging regions")
    ]
    screened = sum(int(view.suspect.sum()) for view in asked if view.screened_on == "test")
    tests = correct(tests, screened)
    return [*tests, *merge_tiles(tests, bootstrap)]


def _tell(
    run: Run,
    part: str,
    parts: Mapping[str, ProbeMaterial],
    asked: Sequence[AskedView],
    tests: Sequence[Test],
    bootstrap: Bootstrap,
    *,
    not_tested: list[str],
) -> Probes:
    """Put together what was found, and what the truth can be told from without the disease."""
    attribution = _attribution(run, part, parts["test"], bootstrap)
    alone = {view.name: _alone(view, parts, bootstrap) for view in asked}
    metadata = Alone(reason=NOTHING_LEARNED)
    if "train" in parts:
        network = parts["test"].logits()
        metadata = metadata_alone(parts["train"], parts["test"], network, bootstrap, seed=bootstrap.seed)
    shortcuts, leaks = list(list_shortcuts(tests)), list(list_leaks(metadata, alone))
    described = what_was_asked(asked, tests, metadata, alone)
    tested = parts["test"]
    return Probes(
        split=part,
        n=len(tested.items),
        patients=len(set(tested.patients)),
        classes=tested.bundle.classes,
        bootstrap=BootstrapFacts.of(bootstrap),
        shortcuts=tuple(shortcuts),
        leaks=tuple(leaks),
        sentences=tuple(sentences(shortcuts, leaks, tests, described, not_tested)),
        asked=tuple(described),
        tiles=sum(int(view.suspect.sum()) for view in asked),
        views={
            view.name: _view_probe(view, tests, attribution.get(view.name), alone[view.name])
            for view in asked
        },
        metadata=metadata,
        not_tested=tuple(not_tested),
    )


def _view_probe(
    view: AskedView, tests: Sequence[Test], attribution: ViewAttribution | None, alone: ViewAlone
) -> ViewProbe:
    own = [test for test in tests if test.view.name == view.name]
    return ViewProbe(
        n=len(view.cases.items),
        attribution=attribution or ViewAttribution(reason="there are no heat maps yet"),
        tiles=_tile_grid(view),
        tested=tuple(test.exchange() for test in own if not test.merged),
        regions=tuple(test.whole_region() for test in own if test.whole),
        background=alone.background,
        masks=alone.masks,
    )


def _tile_grid(own: AskedView) -> TileGrid:
    """The grid of a view: what moves the answers, and what lies where."""
    best = own.moved.argmax(axis=2)
    classes = own.cases.bundle.classes

    def covered(mask: Tensor | None) -> Grid | None:
        return (
            None if mask is None else _grid(own.tiles.covered(mask[mask.flatten(1).any(dim=1)]).mean(axis=0))
        )

    return TileGrid(
        screened_on=own.screened_on,
        rows=tuple(own.tiles.rows),
        columns=tuple(own.tiles.columns),
        moved=_grid(own.moved.max(axis=2)),
        classes=tuple(tuple(classes[k] for k in row) for row in best.tolist()),
        suspect=tuple(map(tuple, own.suspect.tolist())),
        content=tuple(map(tuple, own.content.tolist())),
        organ=covered(own.places.organ),
        truth=covered(own.places.truth),
    )


def _grid(values: Floats) -> Grid:
    return tuple(map(tuple, values.round(4).tolist()))


def _attribution(
    run: Run, part: str, asked: ProbeMaterial, bootstrap: Bootstrap
) -> dict[str, ViewAttribution]:
    """Shares of the stored heat maps by view, of the cases that are asked; none where there are no maps."""
    folder = run.folder / "heatmaps"
    if not (folder / "index.csv").is_file():
        return {}
    cases = {item.case.case_id: item.case for item in asked.items}
    entries = [entry for entry in read_index(folder) if entry.split == part and entry.case_id in cases]
    found, files = {}, CaseFiles(run.study.preprocess.mask_grid)
    for view in asked.bundle.views:
        own = [entry for entry in entries if entry.view == view]
        found[view] = attribution_shares(folder, own, cases, files, run.study.probe.tiles, bootstrap)
    return found


def _alone(view: AskedView, parts: Mapping[str, ProbeMaterial], bootstrap: Bootstrap) -> ViewAlone:
    """Models of the background and of the masks of a view alone."""
    rows = parts["train"].with_view(view.name) if "train" in parts else []
    if not rows:
        return ViewAlone(background=Alone(reason=NOTHING_LEARNED))
    train = parts["train"].part(rows)
    places = find_places(train, view.name)
    kinds: dict[Kind, object] = {"lesion": view.places.truth, "organ": view.places.organ}
    return ViewAlone(
        background=background_alone(train, places, view, bootstrap),
        masks={
            kind: masks_alone(train, places, view, kind, bootstrap)
            for kind, masks in kinds.items()
            if masks is not None
        },
    )


def _geometries(run: Run, boxes: Path) -> dict[int, dict[str, Geometry]]:
    """Geometries of the views by row, for boxes in millimetres; boxes in pixels need none."""
    if not any(row.values.get("unit") for row in read_table(boxes).rows):
        return {}
    return {
        case.row: {view: probe_image(path).geometry for view, path in case.views.items()}
        for case in run.cohort().cases
    }


def _user_boxes(run: Run, named: Mapping[str, Path]) -> dict[str, dict[str, Sequence[Box]]]:
    """Boxes of the regions that the user named, by region and case; their labels are free."""
    found: dict[str, dict[str, Sequence[Box]]] = {}
    for name, path in named.items():
        labels = read_table(path).column("label")
        cases, problems = read_boxes(path, run.cohort().cases, _geometries(run, path), labels)
        if problems:
            raise ManifestRefused(str(path), [f"row {line}: {text}" for line, text in problems])
        found[name] = {case.case_id: case.boxes for case in cases}
    return found
