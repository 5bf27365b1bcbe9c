"""The page: its numbers are those of the files, it needs nothing else, and it survives what is missing."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from foveate.errors import InputRefused, UsageError
from foveate.files import write_json
from foveate.report.build import significant, write_report
from foveate.report.files import MADE_BY
from foveate.report.sections.provenance import date_in_words, duration_in_words
from page import Node, parse
from report_run import EVIL, TRAIN_CASES, TRAIN_PATIENTS, write_run

pytestmark = pytest.mark.slow

FINDINGS = ("Atelectasis", "Effusion", "Hernia", "Mass")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("multiclass"))


@pytest.fixture(scope="module")
def page(run: Path) -> Node:
    return parse(write_report(run).read_text())


@pytest.fixture(scope="module")
def findings_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("multilabel")
    return write_run(folder, task="multilabel", classes=FINDINGS, patients=24, absent=("Hernia",))


@pytest.fixture(scope="module")
def findings_page(findings_run: Path) -> Node:
    return parse(write_report(findings_run).read_text())


@pytest.fixture(scope="module")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes and a dozen cases: quickly reported on."""
    folder = tmp_path_factory.mktemp("binary")
    return write_run(folder, classes=("benign", "malignant"), patients=16, per_patient=1)


def read(run: Path, name: str) -> Any:
    return json.loads((run / name).read_text())


def triple(value: dict[str, Any]) -> list[float]:
    """What a metric shows as exact values: itself and its bounds, as far as they exist."""
    return [value[key] for key in ("value", "low", "high") if value[key] is not None]


def copied(run: Path, to: Path) -> Path:
    return Path(shutil.copytree(run, to / "run", ignore=shutil.ignore_patterns("report.html")))


@pytest.mark.parametrize("kind", ["page", "findings_page"])
def test_the_metrics_are_those_of_the_file(kind: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(kind.replace("page", "run"))
    section = request.getfixturevalue(kind).one("section", id="performance")
    metrics = read(folder, "metrics.json")
    for key, value in metrics["metrics"].items():
        assert section.one("tr", data_metric=key).numbers == triple(value), key
    for name, found in metrics["per_class"].items():
        row = section.one("tr", data_class=name)
        keys = ("auroc", "ap", "recall", "specificity", "precision", "npv", "f1")
        threshold = [] if found["threshold"] is None else [found["threshold"]]
        assert row.numbers == [number for key in keys for number in triple(found[key])] + threshold, name
        assert row.all("td")[0].text == str(found["n"])


def test_the_head_of_the_page_shows_the_main_figures(run: Path, page: Node) -> None:
    metrics, localization = read(run, "metrics.json"), read(run, "localization.json")
    pointing = localization["overall"]["methods"]
    tiles = page.all("div", class_="tile")
    expected = [metrics["metrics"]["auroc_macro"], metrics["metrics"]["balanced_accuracy"]]
    expected.append(pointing["heatmap"]["pointing_game"])
    assert [tile.numbers for tile in tiles] == [triple(value) for value in expected]
    assert "guessing: 0.5" in tiles[0].text and "guessing: 0.2" in tiles[1].text
    assert f"random map: {pointing['random']['pointing_game']['value']:.2f}" in tiles[2].text
    assert page.one("h1").text == "liver-phantom"
    header = page.one("header").text
    assert "21 November 2026, 06:04 UTC" in header
    assert f"{metrics['n']} cases of {metrics['patients']} patients" in header
    assert "conflicting-labels”, accepted" in header, "what was allowed is repeated"


def test_the_parts_are_counted_right(run: Path, page: Node) -> None:
    rows = list(csv.DictReader((run / "predictions.csv").read_text().splitlines()))
    totals = {row["class"]: row["positive"] for row in read(run, "audit.json")["tables"]["classes"]}

    def counted(part: str) -> list[dict[str, str]]:
        return [row for row in rows if row["split"] == part]

    section = page.one("section", id="splits")
    parts = [counted("val"), counted("test")]
    shown = [cell.text for cell in section.one("tr", data_row="cases").all("td")[:3]]
    assert shown == [str(count) for count in (TRAIN_CASES, *map(len, parts))]
    patients = [len({row["patient_id"] for row in part}) for part in parts]
    shown = [cell.text for cell in section.one("tr", data_row="patients").all("td")[:3]]
    assert shown == [str(count) for count in (TRAIN_PATIENTS, *patients)]
    for name, total in totals.items():
        val, test = (sum(row[f"true:{name}"] == "1" for row in part) for part in parts)
        shown = [cell.text for cell in section.one("tr", data_class=name).all("td")[:3]]
        assert shown == [str(total - val - test), str(val), str(test)], name


def test_what_the_files_do_not_tell_is_not_made_up(small_run: Path, tmp_path: Path) -> None:
    folder = copied(small_run, tmp_path)
    (folder / "audit.json").unlink()
    section = parse(write_report(folder).read_text()).one("section", id="splits")
    shown = [cell.text for cell in section.one("tr", data_row="patients").all("td")[:3]]
    assert shown == ["–", "4", "12"], "without the audit nobody knows the patients of the training part"


def test_the_audit_is_repeated(run: Path, page: Node) -> None:
    section, audit = page.one("section", id="data"), read(run, "audit.json")
    for found in audit["findings"]:
        item = section.one("li", data_code=found["code"])
        assert found["message"] in item.text
    assert section.one("li", data_code="conflicting-labels").one("span").text == "accepted"
    twins = section.one("li", data_code="near-duplicates")
    assert twins.one("span").text == "note" and "300 cases" in twins.text
    assert "twin-199" in twins.text and "twin-200" not in twins.text and "100 more" in twins.text
    for row in audit["tables"]["classes"]:
        cells = section.one("tr", data_class=row["class"]).all("td")
        assert (cells[0].text, cells[-1].text) == (str(row["positive"]), str(row["patients"]))
    assert "−1,024 · −1,000 · 0" in section.one("tr", data_view="image").text


def test_localization_stands_beside_its_controls(run: Path, page: Node) -> None:
    section, found = page.one("section", id="localization"), read(run, "localization.json")
    order = ("heatmap", "ceiling", "random", "centre", "edge", "average")
    methods = [found["overall"]["methods"][name] for name in order]
    table = section.one("table", class_="localization")
    for key in (
        "pointing_game",
        "energy_inside",
        "pixel_ap",
        "iou",
        "iobb",
        "mask_iou",
        "dice",
        "max_box_acc",
    ):
        row = table.one("tr", data_measure=key)
        assert row.numbers == [number for method in methods for number in triple(method[key])], key
    for at in ("0.1", "0.5", "0.7"):
        values = [method["localization_accuracy"][at] for method in methods]
        row = section.one("tr", data_iou=at)
        assert row.numbers == [number for value in values for number in triple(value)]
        false = [method["false_positives_iou"][at]["value"] for method in methods]
        assert [small.text for small in row.all("small")] == [f"{value:.2f} false" for value in false]
    for kind, parts in {"class": found["by_class"], "answer": found["by_answer"]}.items():
        for name, part in parts.items():
            shown = f"{name} answer" if kind == "answer" else name
            for key in ("pointing_game", "energy_inside", "iou"):
                row = section.one("tr", **{f"data_{kind}": shown, "data_measure": key})
                values = [part["methods"][method][key] for method in order]
                assert row.numbers == [number for value in values for number in triple(value)]
    assert len(section.all("table", class_="per-size")) == 1
    assert "predicted class (the maps of the predicted classes were not drawn)" in section.text
    assert "In the pointing game the heat maps are better than" in section.text
    assert "heat map at 50 %, random map at 40 %" in section.text, "the rule is stated"


def test_published_figures_stand_apart_from_those_of_the_run(findings_run: Path, findings_page: Node) -> None:
    section = findings_page.one("section", id="localization")
    found = read(findings_run, "localization.json")
    rows = section.one("table", class_="published").all("tr")[2:]
    assert {row.attributes["data-published"] for row in rows} == {"Atelectasis", "Effusion", "Mass"}
    row = section.one("tr", data_published="Mass")
    own = found["by_class"]["Mass"]["methods"]["heatmap"]
    shown = [own["localization_accuracy"]["0.3"], own["iobb_accuracy"]["0.5"]]
    assert row.numbers == [number for value in shown for number in triple(value)], (
        "only the run's have exact values"
    )
    assert [cell.text for cell in row.all("td")][2::2] == ["0.15", "0.31"]
    assert "tagged “published”" in section.text and "another rule" in section.text


def test_calibration_training_and_provenance(run: Path, page: Node) -> None:
    calibration = read(run, "metrics.json")["calibration"]
    section = page.one("section", id="calibration")
    rows = section.one("table", class_="bins").all("tr")[1:]
    bins = [part for part in calibration["bins"] if part["n"]]
    assert [row.numbers for row in rows] == [[part["confidence"], part["accuracy"]] for part in bins]
    assert [row.all("td")[-1].text for row in rows] == [str(part["n"]) for part in bins]

    log = list(csv.DictReader((run / "training.csv").read_text().splitlines()))
    best = max(
        (row for row in log if row["balanced_accuracy"]), key=lambda row: float(row["balanced_accuracy"])
    )
    numbers = [float(best["epoch"]), float(best["balanced_accuracy"])]
    assert page.one("section", id="training").numbers == numbers

    provenance, record = page.one("section", id="provenance"), read(run, "run.json")
    for text in (
        *record["hashes"].values(),
        *record["versions"].values(),
        *record["stations"],
        "foveate run study.yaml",
    ):
        assert text in provenance.text, text
    assert "Seed7" in provenance.text.replace(" ", "") and "Cores2" in provenance.text.replace(" ", "")
    assert yaml.safe_load("".join(provenance.one("pre")._texts())) == yaml.safe_load(
        (run / "study.yaml").read_text()
    )


def test_findings_have_a_table_of_counts_and_reasons(findings_run: Path, findings_page: Node) -> None:
    section = findings_page.one("section", id="confusion")
    for name, counts in read(findings_run, "metrics.json")["confusion"].items():
        cells = section.one("tr", data_class=name).all("td", class_="figures")
        assert [int(cell.text) for cell in cells] == [counts[key] for key in ("tp", "fn", "fp", "tn")]
    row = findings_page.one("section", id="performance").one("tr", data_class="Hernia")
    assert row.text.count("undefined") == 3
    assert "Hernia: AUROC, Average precision, Sensitivity (no positive case)" in findings_page.text
    assert len(findings_page.one("section", id="curves").all("figure")) == 2 * 3, "Hernia has no curve"
    assert "undefined for Hernia" in findings_page.one("section", id="curves").text


@pytest.mark.parametrize("kind", ["page", "findings_page"])
def test_the_page_needs_nothing_from_elsewhere(kind: str, request: pytest.FixtureRequest) -> None:
    found: Node = request.getfixturevalue(kind)
    folder: Path = request.getfixturevalue(kind.replace("page", "run"))
    text = re.sub("data:image/[a-z]+;base64,[A-Za-z0-9+/=]+", "data:", (folder / "report.html").read_text())
    assert not re.search(
        r"https?:|//[a-z]|@import|@font-face|\bsrc\s*=|<script|javascript:|\son\w+\s*=", text
    )
    assert not re.search(r"url\((?!#)", text), "styles refer to nothing outside the page"
    links = [node.attributes["href"] for node in found.all() if "href" in node.attributes]
    assert links and all(link.startswith(("#", "data:")) for link in links)
    names = [node.attributes["id"] for node in found.all() if "id" in node.attributes]
    assert len(names) == len(set(names)), "identifiers are unique"
    local = {link[1:] for link in links if link.startswith("#")} | set(re.findall(r"url\(#([^)]+)\)", text))
    assert local <= set(names), "every reference within the page has its target"
    policy = found.one("meta", http_equiv="Content-Security-Policy").attributes["content"]
    assert "default-src 'none'" in policy


def test_text_from_the_run_is_never_markup(run: Path, page: Node, tmp_path: Path) -> None:
    assert EVIL not in (run / "report.html").read_text() and EVIL in page.text
    names = ("<b>bold</b>", 'a"quote', "$x$ & _{y}", "肝 ß")
    folder = write_run(tmp_path / "evil", classes=names, patients=16, per_patient=2)
    record = read(folder, "run.json") | {
        "name": EVIL,
        "command": ["foveate", "run", EVIL],
        "versions": {EVIL: EVIL},
    }
    write_json(folder / "run.json", record)
    evil = parse(write_report(folder).read_text())
    assert evil.one("h1").text == EVIL and not evil.all("script") and "<b>" not in evil.one("title").text
    for name in names:
        assert evil.one("section", id="performance").one("tr", data_class=name)
        assert any(name == node.text for node in evil.one("section", id="confusion").all("text")), name


@pytest.mark.parametrize("name", [name for name, command in MADE_BY.items() if command != "test"])
def test_an_absent_file_names_its_command(small_run: Path, tmp_path: Path, name: str) -> None:
    folder = copied(small_run, tmp_path)
    (folder / name).unlink()
    page = parse(write_report(folder).read_text())
    if name != "study.yaml":  # the page has no section that needs the study
        assert f"foveate {MADE_BY[name]} {folder}" in page.text
    assert len(page.all("section")) >= 10, "every section is there, with or without its content"


def test_a_run_that_has_just_begun(small_run: Path, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text((small_run / "study.yaml").read_text())
    page = parse(write_report(tmp_path, tmp_path / "early.html").read_text())
    assert page.one("h1").text == "liver-phantom"
    assert len(page.all("p", class_="missing")) == len(page.all("a", class_="absent")) > 9
    assert [tile.one("p", class_="figure undefined").text for tile in page.all("div", class_="tile")] == [
        "not yet"
    ] * 3


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a run folder"):
        write_report(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metrics.json", '{"task": '),
        ("audit.json", "[1, 2]"),
        ("study.yaml", "a: [1"),
        ("training.csv", "epoch,train_loss\n1,low\n"),
        ("training.csv", "train_loss\n1\n"),
        ("heatmaps/index.csv", "case_id\nx\n"),
        ("boxes.csv", "case_id,view,target,x,y,w,h\na,b,c,1,2,wide,4\n"),
    ],
)
def test_a_damaged_file_is_named(small_run: Path, tmp_path: Path, name: str, content: str) -> None:
    folder = copied(small_run, tmp_path)
    (folder / name).write_text(content)
    with pytest.raises(InputRefused, match=re.escape(name)) as refused:
        write_report(folder)
    assert f"foveate {MADE_BY[name]}" in str(refused.value)
    assert not (folder / "report.html").exists()


def test_what_is_no_number_is_undefined(small_run: Path, tmp_path: Path) -> None:
    folder = copied(small_run, tmp_path)
    metrics = read(folder, "metrics.json")
    metrics["metrics"]["auroc_macro"] = {
        "value": float("nan"),
        "low": None,
        "high": None,
        "n": 3,
        "patients": 2,
    }
    metrics["metrics"]["accuracy"] |= {"value": None, "low": None, "high": None, "reason": "no known <case>"}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    page = parse(write_report(folder).read_text())
    assert page.all("div", class_="tile")[0].one("p", class_="figure undefined").text == "undefined"
    section = page.one("section", id="performance")
    assert "undefined no known <case>" in section.one("tr", data_metric="accuracy").text
    row = section.one("tr", data_metric="auroc_macro")
    assert "undefined no reason was recorded" in row.text and row.numbers == []


def test_nothing_to_localize_is_said(small_run: Path, tmp_path: Path) -> None:
    folder = copied(small_run, tmp_path)
    nothing = {"n": 0, "patients": 0, "methods": {}}
    found = read(folder, "localization.json") | {
        "overall": nothing,
        "by_class": {},
        "reason": "no case is marked",
    }
    write_json(folder / "localization.json", found)
    page = parse(write_report(folder).read_text())
    assert "Nothing could be scored: no case is marked" in page.one("section", id="localization").text
    assert len(page.all("div", class_="tile")) == 2, "no headline for what nobody could measure"


def test_the_same_files_give_the_same_page(small_run: Path, tmp_path: Path) -> None:
    first, second = (
        write_report(small_run, tmp_path / name).read_bytes() for name in ("first.html", "second.html")
    )
    assert first == second


def test_the_report_needs_no_torch() -> None:
    code = (
        "import sys, foveate.report; print([name for name in ('torch', 'lightning') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.42, "0.4 s"), (37.2, "37 s"), (125, "2 min 05 s"), (12_030, "3 h 20 min")],
)
def test_durations_read_well(seconds: float, words: str) -> None:
    assert duration_in_words(seconds) == words


def test_dates_and_numbers_read_well() -> None:
    assert date_in_words("2026-03-02T09:05:00+00:00") == "2 March 2026, 09:05 UTC"
    assert date_in_words("yesterday") == "yesterday"
    assert [significant(x) for x in (-0.012345, 3071.4, 1e-9, 0.0)] == ["−0.0123", "3,071", "1e−09", "0"]


def _luminance(colour: str) -> float:
    long = colour if len(colour) == 6 else re.sub("(.)", r"\1\1", colour)
    channels = [int(pair, 16) / 255 for pair in re.findall("..", long)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_text_can_be_read_on_light_and_dark_pages(page: Node) -> None:
    """Contrast as WCAG 2.1 defines it: 4.5 for text, 3 for lines of charts."""
    style = page.one("style").text
    light, dark = (
        re.findall(r"--([\w-]+): #(\w+)", block) for block in re.findall(r":root \{(.*?)\}", style)[:2]
    )
    for colours in (dict(light), dict(dark)):
        for text, ground, least in [
            *((name, ground, 4.5) for name in ("ink", "muted", "accent") for ground in ("paper", "wash")),
            ("warn", "warn-wash", 4.5),
            *((name, "paper", 3) for name in ("blue", "vermillion", "green")),
        ]:
            pair = sorted((_luminance(colours[text]), _luminance(colours[ground])))
            assert (pair[1] + 0.05) / (pair[0] + 0.05) >= least, (text, ground)
