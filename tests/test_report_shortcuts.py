"""The report's section on shortcuts, and what the command line prints: every figure is that of the file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from foveate.cli.probe import show_probes
from foveate.cli.terminal import console
from foveate.evaluate.results.probes import Probes
from foveate.report.build import write_report
from page import Node, parse
from report_run import EVIL, write_run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run"), classes=("cyst", "HCC"), patients=10)


def section(run: Path) -> Node:
    return parse(write_report(run).read_text(encoding="utf-8")).one("section", id="shortcuts")


def test_what_was_found_comes_first(run: Path) -> None:
    shown = section(run)
    (item,) = shown.one("ul", _class="shortcuts").all("li")
    assert item.attributes["data-kind"] == "marker" and item.text.startswith("A marker at the top right")
    assert item.numbers == [0.41, 0.3, 0.52]
    assert EVIL in shown.one("ul", _class="leaks").text  # as text
    assert shown.all("script") == []


def test_each_question_has_a_row(run: Path) -> None:
    table = section(run).one("table", _class="tested")
    found, other = table.one("tbody").all("tr")
    assert (found.attributes["data-found"], other.attributes["data-found"]) == ("true", "false")
    assert "tile, 88–100 % across, 0–12 % down" in found.text and found.text.endswith("0.010")
    assert found.numbers == [0.98, 0.98, 0.41, 0.3, 0.52, 0.41, 0.3, 0.52]
    assert EVIL in other.text and other.text.endswith("–")


def test_undefined_figures_and_untested_questions_say_why(run: Path) -> None:
    shown = section(run)
    assert "no test case has an organ mask" in shown.one("table", _class="attribution").text
    assert "there is hardly any background" in shown.one("table", _class="alone").text
    assert "undefined" in shown.one("table", _class="regions").text
    assert "Not asked: image: strokes." in shown.text


def test_the_chart_frames_what_was_found(run: Path) -> None:
    (chart,) = section(run).all("svg")
    assert chart.attributes["aria-label"] == "How much each tile of image moves the answers"
    framed = [node for node in chart.all("path") if "--vermillion" in node.attributes.get("style", "")]
    assert len(framed) == 1


def test_nothing_found_is_no_proof(run: Path) -> None:
    content = json.loads((run / "probes.json").read_text())
    try:
        (run / "probes.json").write_text(json.dumps(content | {"shortcuts": [], "leaks": []}))
        shown = section(run)
    finally:
        (run / "probes.json").write_text(json.dumps(content))
    assert "No shortcut was found in what was asked: the border." in shown.text
    assert "Not asked: image: strokes." in shown.text and "no proof" in shown.text
    assert shown.all("ul", _class="shortcuts") == []


def test_what_the_command_prints(run: Path) -> None:
    with console.capture() as printed:
        show_probes(Probes.from_json(json.loads((run / "probes.json").read_text())))
    text = printed.get()
    assert "- A marker at the top right decides." in text and "Not asked: image: strokes" in text
    assert "tile (94%, 6%)" in text and "0.010" in text and "metadata and files" in text


def test_a_file_of_0_1_0_opens(run: Path) -> None:
    old = json.loads((run / "probes.json").read_text())
    for name in ("format", "asked", "tiles"):
        del old[name]
    for name in ("network", "difference"):
        old["metadata"].pop(name, None)
        for figures in old["metadata"]["per_class"].values():
            figures.pop(name, None)
    for leak in old["leaks"]:
        leak.pop("network_better")
    for view in old["views"].values():
        view.pop("masks", None)
    found = Probes.from_json(old)
    assert found.format == 0 and found.asked == () and found.tiles is None and found.leaks[0].network_better
    assert found.metadata.told["cyst"].value == 0.41 and found.metadata.network is None
    assert all(view.masks == {} for view in found.views.values())
    with console.capture() as printed:
        show_probes(found)
    assert "metadata and files" in printed.get()
