"""Several views and volumes in the report: the right slices, the right shares, nothing for a single view."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from foveate.errors import InputRefused
from foveate.maps.heatmaps import CaseMaps, MapEntry, read_case, read_index, read_shares
from foveate.report.build import write_report
from foveate.report.files import RunFiles
from foveate.report.pictures.panels import PanelMaker
from foveate.types import Box
from page import Node, parse
from report_run import write_run

pytestmark = pytest.mark.slow

VIEWS = ("t2", "dwi", "late")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Volumes of three views; every third case lacks the last."""
    folder = tmp_path_factory.mktemp("volumes")
    return write_run(folder, classes=("cyst", "HCC"), patients=10, views=VIEWS, volumes=True)


@pytest.fixture(scope="module")
def page(run: Path) -> Node:
    return parse(write_report(run).read_text())


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of two views; the first is marked by boxes alone."""
    folder = tmp_path_factory.mktemp("pair")
    return write_run(folder, classes=("a", "b"), patients=10, views=("photo", "echo"))


def triple(value: dict[str, float | None]) -> list[float]:
    return [float(number) for number in (value["value"], value["low"], value["high"]) if number is not None]


def test_figures_by_views_are_those_of_the_file(run: Path, page: Node) -> None:
    found = json.loads((run / "metrics.json").read_text())["by_views"]
    assert set(found) == {"t2+dwi+late", "t2+dwi"}
    section = page.one("section", id="views")
    for pattern, part in found.items():
        row = section.one("tr", data_views=pattern)
        assert row.numbers == [number for value in part["metrics"].values() for number in triple(value)]
        assert [cell.text for cell in row.all("td")[:2]] == [str(part["n"]), str(part["patients"])]


def test_shares_are_means_over_the_cases_that_have_a_view(run: Path, page: Node) -> None:
    rows = [share for share in read_shares(run / "heatmaps") if share.split == "test"]
    totals: dict[tuple[str, str], float] = {}
    for row in rows:
        key = row.case_id, row.target
        totals[key] = totals.get(key, 0) + abs(row.value)
    section = page.one("section", id="views")
    assert len(section.all("figure")) == 2
    for target, view in itertools.product(("cyst", "HCC"), VIEWS):
        own = [row for row in rows if (row.target, row.view) == (target, view)]
        cells = section.one("tr", data_class=target, data_view=view).all("td")
        assert cells[1].text == str(len(own))
        expected = [
            np.mean([abs(row.value) / totals[row.case_id, target] for row in own]),
            np.mean([row.share for row in own]),
            np.mean([row.value for row in own]),
        ]
        assert [cell.numbers[0] for cell in cells[2:]] == pytest.approx(expected)


def test_runs_of_one_view_have_no_such_section(tmp_path: Path) -> None:
    folder = write_run(tmp_path, classes=("a", "b"), patients=8, per_patient=1)
    page = parse(write_report(folder).read_text())
    assert not page.all("section", id="views") and not page.all("a", href="#views")
    assert not page.all("article", class_="card several")


def test_shares_that_are_not_there_name_their_command(run: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(run, tmp_path / "run"))
    (folder / "views.json").unlink()
    section = parse(write_report(folder).read_text()).one("section", id="views")
    assert "foveate explain" in section.text and section.all("table", class_="by-views")
    (folder / "views.json").write_text('{"parts": {}}')
    with pytest.raises(InputRefused, match=re.escape("views.json")):
        write_report(folder)


def test_figures_by_views_may_not_be_there(pair: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(pair, tmp_path / "run"))
    metrics = json.loads((folder / "metrics.json").read_text())
    del metrics["by_views"]
    (folder / "metrics.json").write_text(json.dumps(metrics))
    section = parse(write_report(folder).read_text()).one("section", id="views")
    assert not section.all("table", class_="by-views") and section.all("figure")


def test_views_stand_side_by_side_and_a_missing_one_is_said(run: Path, page: Node) -> None:
    views_of: dict[str, list[str]] = {}
    for entry in read_index(run / "heatmaps"):
        views_of.setdefault(entry.case_id, []).append(entry.view)
    cards = page.one("section", id="cases").all("article", class_="card several")
    assert cards and any(len(views_of[card.attributes["data-case"]]) == 2 for card in cards)
    for card in cards:
        columns = card.all("span", class_="panels")
        assert [column.attributes["data-view"] for column in columns] == list(VIEWS)
        for column in columns:
            there = column.attributes["data-view"] in views_of[card.attributes["data-case"]]
            assert ("this case lacks this view" in column.text) is not there
            assert bool(column.all("image")) is there


def test_every_volume_shows_its_highest_slice_and_the_lesion(run: Path, page: Node) -> None:
    entries = {(entry.case_id, entry.view): entry for entry in read_index(run / "heatmaps")}
    for card in page.all("article", class_="card several"):
        for column in card.all("span", class_="panels"):
            entry = entries.get((card.attributes["data-case"], column.attributes["data-view"]))
            if entry is None:
                continue
            stored = read_case(run / "heatmaps" / entry.file)
            titles = [panel.one("span", class_="title").text for panel in column.all("span", class_="panel")]
            assert stored.truth is not None
            area = stored.truth.sum(axis=(1, 2))
            for title in titles:
                (at,) = re.findall(r"slice (\d+) of 0–8", title)
                assert ("(lesion)" in title) is (int(at) == int(re.findall(r"slice (\d+)", titles[0])[0]))
                if "(lesion)" in title:
                    assert area[int(at)] == area.max()
                else:
                    target = re.findall(r"Evidence for (\w+)", title)[0]
                    values = stored.values[stored.targets.index(target)]
                    assert int(at) == np.unravel_index(values.argmax(), values.shape)[0]


def test_true_boxes_are_outlined_where_there_is_no_mask(pair: Path) -> None:
    page = parse(write_report(pair).read_text())
    cards = page.all("article", class_="card several")
    photos = [
        c for card in cards for c in card.all("span", class_="panels", data_view="photo") if c.all("image")
    ]
    echoes = [
        c for card in cards for c in card.all("span", class_="panels", data_view="echo") if c.all("image")
    ]
    assert photos and all(len(column.all("rect", class_="truth")) >= 1 for column in photos)
    assert not any(column.all("path", class_="truth") for column in photos)
    assert echoes and not any(column.all("rect", class_="truth") for column in echoes)
    assert all(column.all("path", class_="truth") for column in echoes)


def _maps(**changes: object) -> CaseMaps:
    """A volume of five slices whose evidence is highest in slice 1."""
    values = np.zeros((1, 5, 8, 10), np.float32)
    values[0, 1, 2, 3], values[0, 3, 4, 4] = 2.0, 1.0
    maps = CaseMaps(values, ("x",), np.full((5, 8, 10), 90, np.uint8), None)
    return replace(maps, **changes)  # type: ignore[arg-type]


def _titles(maps: CaseMaps, found: dict[tuple[str, str, str], tuple[Box, ...]] | None = None) -> list[str]:
    entry = MapEntry("c", "p", "test", "ct", "gradcam", ("x",), "x", "x", 0.5, "f.npz")
    panels = list(PanelMaker(found or {}).panels(entry, maps, ["x"], several=False))
    return [panel.title for panel in panels] + [str(panel.drawing) for panel in panels]


def test_slices_by_hand() -> None:
    mask = np.zeros((5, 8, 10), bool)
    mask[2:5, 3:5, 3:5] = True
    lesion = _titles(_maps(truth=mask))[:3]
    assert lesion == [
        "Picture, slice 3 of 0–4 (lesion)",
        "Evidence for x, slice 1 of 0–4",
        "Evidence for x, slice 3 of 0–4 (lesion)",
    ], "of slices with equally much lesion the middle one"
    assert _titles(_maps())[:2] == ["Picture, slice 1 of 0–4", "Evidence for x, slice 1 of 0–4"]
    silent = _titles(_maps(values=np.full((1, 5, 8, 10), -1, np.float32)))
    assert silent[:2] == ["Picture, slice 2 of 0–4", "Evidence for x, slice 2 of 0–4"], "else the middle"


def test_boxes_of_volumes_are_drawn_on_the_slices_that_they_cross() -> None:
    true = Box((2, 1, 1), (5, 4, 6), "x"), Box((0, 0, 0), (5, 1, 1), "other")
    found = {("c", "ct", "x"): (Box((1, 2, 3), (2, 5, 9), "x"),)}
    titles = _titles(_maps(boxes=true), found)
    assert titles[:3] == [
        "Picture, slice 3 of 0–4 (lesion)",
        "Evidence for x, slice 1 of 0–4",
        "Evidence for x, slice 3 of 0–4 (lesion)",
    ]
    picture, highest, lesion = titles[3:]
    frame = 'x="1" y="1" width="5" height="3"'
    assert f'<rect class="truth" {frame}/>' in picture and picture.count('class="truth"') == 1
    assert 'class="truth"' not in highest
    assert '<rect class="found" x="3" y="2" width="6" height="3"/>' in highest
    assert f'<rect class="truth" {frame}/>' in lesion and 'class="found"' not in lesion


def test_the_completeness_gap_stands_below_its_map(page: Node) -> None:
    ranges = [node.text for node in page.one("section", id="cases").all("span", class_="range")]
    assert ranges.count("completeness gap 0.0125") == len(ranges) / 2


def test_localization_is_told_by_view(run: Path, page: Node) -> None:
    found = json.loads((run / "localization.json").read_text())["by_view"]
    section = page.one("section", id="localization")
    for view in VIEWS:
        for key in ("pointing_game", "energy_inside", "iou"):
            row = section.one("tr", data_view=view, data_measure=key)
            methods = found[view]["methods"]
            order = ("heatmap", "ceiling", "random", "centre", "edge", "average")
            assert row.numbers == [number for name in order for number in triple(methods[name][key])]


def test_boxes_with_six_numbers_are_read(run: Path) -> None:
    files = RunFiles.read(run)
    assert files.views == VIEWS
    assert files.boxes and all(len(box.start) == 3 for boxes in files.boxes.values() for box in boxes)


def test_the_summary_shows_few_views_of_a_case_and_the_cases_all(run: Path, page: Node) -> None:
    short = parse((run / "summary.html").read_text()).all("article")
    whole = page.one("section", id="cases").all("article")
    shown = {card.attributes["data-case"]: len(card.all("span", class_="panels")) for card in whole}
    assert short and 3 in shown.values()
    for card in short:
        several = shown[card.attributes["data-case"]]
        assert len(card.all("span", class_="panels")) == (1 if several == 3 else several)
        assert ("1 of 3 views" in card.text) == (several == 3)
