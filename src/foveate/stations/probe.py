"""Shortcuts: does the model read its answer where nothing of the disease is? Writes ``probes.json``.

Content of ``probes.json``:

* ``shortcuts``: what the model is shown to use: ``kind``, ``where``, ``class``, ``effect``, ``interval``,
  ``p``, ``sentence``. Empty where nothing was found.
* ``leaks``: what tells the truth without the disease, whether or not the model uses it; the same keys, and
  ``network_better``: whether the network is shown to know more.
* ``sentences``: all of it in plain words.
* ``views``: by view, ``attribution`` (shares of the heat maps), ``tiles`` (the grid, what lies in each tile,
  and by how much it moves the answers), ``tested`` (exchanges with AUROCs, effect and corrected p-value),
  ``regions`` (exchange, removal and pasting of whole regions), ``background`` (a model of it alone),
  ``masks`` (``lesion`` and ``organ``: models of the area, the position and the outline alone).
* ``metadata``: a model of metadata and file properties alone.
* ``asked``: what was asked, in words; ``tiles``: how many show something and hold nothing of the disease.
* ``not_tested``: what could not be asked, and why.

Each model of something alone has the network beside it: its AUROC on the same cases (``network``) and the
paired ``difference``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from foveate.data.manifest.boxes import read_boxes
from foveate.data.manifest.rows import read_table
from foveate.errors import InputRefused, ManifestRefused, UsageError
from foveate.evaluate.intervals import Bootstrap
from foveate.files import write_json
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
from foveate.types import Box, Case, Track, quiet

if TYPE_CHECKING:
    from foveate.bundle.bundle import Bundle

REPLICATES = 2000  # at least, so that p-values are fine enough to be corrected
SCREENING = 96  # validation cases
TRAINING, TRAINING_BYTES = 1000, 512e6  # training cases for the models of metadata and background, at most
VOLUME_CASES = 48
NOTHING_LEARNED = "there is no training case with a known truth"
Json = dict[str, Any]


def probe(
    run: Run, part: str = "test", *, named: Mapping[str, Path] | None = None, track: Track = quiet
) -> Json:
    """Look for shortcuts; writes ``probes.json``.

    Args:
        run: with a bundle; with heat maps, if their shares shall be told.
        part: whose cases are asked.
        named: further regions by name: a CSV of boxes as ``foveate.data.manifest.boxes`` reads them, such
            as those of markers.
        track: shows progress.

    Returns:
        What ``probes.json`` holds; see the module.

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
        result = _facts(parts["test"], part, bootstrap)
        result |= _tell(run, part, parts, asked, tests, bootstrap, not_tested=not_tested)
        write_json(run.folder / "probes.json", result)
    note_cautions(run)
    raise_if_partial(refused, f"probed {result['n']} cases")
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


def _facts(material: ProbeMaterial, part: str, bootstrap: Bootstrap) -> Json:
    return {
        "split": part,
        "n": len(material.items),
        "patients": len(set(material.patients)),
        "classes": list(material.bundle.classes),
        "bootstrap": {
            "n": bootstrap.n,
            "level": bootstrap.level,
            "unit": "patient",
            "seed": bootstrap.seed,
        },
    }


def _tell(
    run: Run,
    part: str,
    parts: Mapping[str, ProbeMaterial],
    asked: Sequence[AskedView],
    tests: Sequence[Test],
    bootstrap: Bootstrap,
    *,
    not_tested: list[str],
) -> Json:
    """Put together what was found, and what the truth can be told from without the disease."""
    attribution = _attribution(run, part, parts["test"], bootstrap)
    alone = {view.name: _alone(view, parts, bootstrap) for view in asked}
    metadata: Json = {"reason": NOTHING_LEARNED}
    if "train" in parts:
        network = parts["test"].logits()
        metadata = metadata_alone(parts["train"], parts["test"], network, bootstrap, seed=bootstrap.seed)
    shortcuts, leaks = list(list_shortcuts(tests)), list(list_leaks(metadata, alone))
    described = what_was_asked(asked, tests, metadata, alone)
    return {
        "shortcuts": shortcuts,
        "leaks": leaks,
        "sentences": sentences(shortcuts, leaks, tests, described, not_tested),
        "asked": described,
        "tiles": sum(int(view.suspect.sum()) for view in asked),
        "views": {
            view.name: {
                "n": len(view.cases.items),
                "attribution": attribution.get(view.name, {"reason": "there are no heat maps yet"}),
                "tiles": _tiles_json(view),
                "tested": [test.to_json() for test in own if not test.merged],
                "regions": [test.region_json() for test in own if test.whole],
                **alone[view.name],
            }
            for view in asked
            for own in [[test for test in tests if test.view.name == view.name]]
        },
        "metadata": metadata,
        "not_tested": not_tested,
    }


def _tiles_json(own: AskedView) -> Json:
    """The grid of a view: what moves the answers, and what lies where."""
    best = own.moved.argmax(axis=2)
    classes = own.cases.bundle.classes
    masks = {"organ": own.places.organ, "truth": own.places.truth}
    covered = {
        name: None
        if mask is None
        else own.tiles.covered(mask[mask.flatten(1).any(dim=1)]).mean(axis=0).round(4).tolist()
        for name, mask in masks.items()
    }
    return {
        "screened_on": own.screened_on,
        "rows": list(own.tiles.rows),
        "columns": list(own.tiles.columns),
        "moved": own.moved.max(axis=2).round(4).tolist(),
        "class": [[classes[k] for k in row] for row in best.tolist()],
        "suspect": own.suspect.tolist(),
        "content": own.content.tolist(),
        **covered,
    }


def _attribution(run: Run, part: str, asked: ProbeMaterial, bootstrap: Bootstrap) -> dict[str, Json]:
    """Shares of the stored heat maps by view, of the cases that are asked; none where there are no maps."""
    folder = run.folder / "heatmaps"
    if not (folder / "index.csv").is_file():
        return {}
    cases = {item.case.case_id: item.case for item in asked.items}
    entries = [entry for entry in read_index(folder) if entry.split == part and entry.case_id in cases]
    found = {}
    for view in asked.bundle.views:
        own = [entry for entry in entries if entry.view == view]
        shares = attribution_shares(folder, own, cases, run.study.probe.tiles, bootstrap)
        found[view] = {"explainer": own[0].explainer if own else None, **shares}
    return found


def _alone(view: AskedView, parts: Mapping[str, ProbeMaterial], bootstrap: Bootstrap) -> Json:
    """Models of the background and of the masks of a view alone."""
    rows = parts["train"].with_view(view.name) if "train" in parts else []
    if not rows:
        return {"background": {"reason": NOTHING_LEARNED}, "masks": {}}
    train = parts["train"].part(rows)
    places = find_places(train, view.name)
    kinds: dict[Kind, object] = {"lesion": view.places.truth, "organ": view.places.organ}
    return {
        "background": background_alone(train, places, view, bootstrap),
        "masks": {
            kind: masks_alone(train, places, view, kind, bootstrap)
            for kind, masks in kinds.items()
            if masks is not None
        },
    }


def _user_boxes(run: Run, named: Mapping[str, Path]) -> dict[str, dict[str, Sequence[Box]]]:
    """Boxes of the regions that the user named, by region and case; their labels are free."""
    found: dict[str, dict[str, Sequence[Box]]] = {}
    for name, path in named.items():
        labels = read_table(path).column("label")
        cases, problems = read_boxes(path, run.cohort().cases, {}, labels)
        if problems:
            raise ManifestRefused(str(path), [f"row {line}: {text}" for line, text in problems])
        found[name] = {case.case_id: case.boxes for case in cases}
    return found
