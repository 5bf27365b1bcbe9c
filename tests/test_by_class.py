"""Figures of single classes: worked by hand, beside a loop, and beside what was published of such classes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from foveate.cli import app as cli
from foveate.evaluate.comparing import comparison
from foveate.evaluate.comparing.paired import RunFigures
from foveate.evaluate.intervals import Bootstrap
from foveate.evaluate.localization import CaseScore
from foveate.evaluate.localization.published import CHESTXRAY14
from foveate.evaluate.scores import read_scores
from foveate.evaluate.table import PredictionTable, read_predictions
from foveate.files import write_json
from foveate.models.by_class import (
    CERVICAL_RECALL,
    CLASS_TABLES,
    DADRN_LOCALIZATION,
    DADRN_RECALL,
    HERLEV,
    class_tables,
)
from foveate.models.cards import CARDS
from foveate.models.cervical.card import REBUILT
from foveate.report.published import published_by_class
from page import Node, parse
from report_run import SWEPT, write_run
from test_intervals import tail_of

pytestmark = pytest.mark.slow

SEVEN = (0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
LIVER = ("FNH", "HCC", "Hemangioma", "cyst", "normal")


# --- the published tables ---------------------------------------------------------------------------------


def compare(*args: Any, **named: Any) -> dict[str, Any]:
    """What ``comparison.json`` holds of a comparison."""
    return comparison.compare(*args, **named).to_json()


def located(entry: RunFigures, bootstrap: Bootstrap) -> dict[str, Any]:
    """Classes as ``comparison.json`` holds them."""
    return {name: found.to_json() for name, found in comparison.located(entry, bootstrap).items()}


def test_cervical_recalls_are_whole_images_and_rebuild_the_accuracies_of_the_cards() -> None:
    cards = [row for card in CARDS.values() for row in card.published if REBUILT in row.figures]
    rebuilt = {(row.name, row.data): row.figures[REBUILT] for row in cards}
    seen = 0
    for table in CERVICAL_RECALL:
        for name, recalls in table.rows.items():
            hits = [round(recall * cases) for recall, cases in zip(recalls, table.cases, strict=True)]
            for hit, recall, cases in zip(hits, recalls, table.cases, strict=True):
                assert abs(hit / cases - recall) < 1.1e-3  # three digits, some of them cut off
            if table.data != HERLEV:
                seen += 1
                assert sum(hits) / sum(table.cases) == pytest.approx(rebuilt[name, table.data])
    assert seen == len(rebuilt) == 10


def test_published_tables_are_shares_of_other_data_with_a_figure_for_each_class() -> None:
    for table in CLASS_TABLES:
        assert table.data.startswith("published, other data") and table.source
        for row in table.rows.values():
            assert len(row) == len(table.classes)
            assert all(value is None or 0 <= value <= 1 for value in row)


def test_tables_stand_beside_cohorts_with_their_classes_and_no_other() -> None:
    assert class_tables(LIVER, "multiclass") == [DADRN_RECALL, DADRN_LOCALIZATION]
    assert class_tables([name.upper() for name in LIVER], "multiclass")  # however they are written
    assert class_tables(LIVER[:4], "multiclass") == class_tables([*LIVER, "ICC"], "multiclass") == []
    assert class_tables(LIVER, "multilabel") == []
    cells = ("dyskeratotic", "koilocytotic", "metaplastic", "parabasal", "superficial intermediate")
    assert class_tables(cells, "multiclass") == list(CERVICAL_RECALL[:3])
    rows = {row.name: row for row in published_by_class(LIVER, "multiclass") if row.figure == "recall"}
    assert rows["DADRN50-B"].values["Hemangioma"] == 0.6819  # by the cohort's own name
    assert "normal" not in rows["ResGLNet, given the lesion's region"].values


def test_boxes_of_chest_radiographs_stand_beside_cohorts_that_have_all_eight_findings() -> None:
    (row,) = published_by_class((*CHESTXRAY14, "Hernia"), "multilabel")
    assert row.figure == "localized_0.3" and row.values["Nodule"] == 0.04
    assert published_by_class(tuple(CHESTXRAY14)[1:], "multilabel") == ()
    assert published_by_class(tuple(CHESTXRAY14), "multiclass") == ()


# --- how heat maps point, class by class ------------------------------------------------------------------


def score(case: str, label: str, hit: float, overlap: float, answer: str = "right") -> CaseScore:
    """One that was swept over ``SEVEN``: its largest box reaches ``overlap`` at 0.5, and all at 0.15."""
    ious = tuple(1.0 if share == 0.15 else overlap if share == 0.5 else 0.0 for share in SEVEN)
    return CaseScore(
        case,
        f"p{case}",
        label,
        "heatmap",
        hit,
        0.9,
        0.9,
        0.5,
        0.4,
        0.1,
        False,
        answer=answer,
        largest_ious=ious,
    )


def entry(truth: list[int], decided: list[int], scores: list[CaseScore]) -> RunFigures:
    """Three classes; what is decided has a probability of 0.6."""
    p = np.full((len(truth), 3), 0.2) + 0.4 * np.eye(3)[decided]
    names = tuple(str(number) for number in range(len(truth)))
    patients = tuple(f"p{name}" for name in names)
    table = PredictionTable(
        "multiclass", ("cyst", "FNH", "normal"), names, patients, ("test",) * len(truth), np.log(p), p,
        np.eye(3)[truth],
    )  # fmt: skip
    return RunFigures(table, scores=scores, swept=SEVEN)


HAND = {
    0: entry(
        [0, 0, 0, 0, 1, 1, 2],
        [0, 0, 1, 2, 1, 1, 2],
        [
            score("0", "cyst", 1, 0.5),  # exactly 0.5 is enough
            score("1", "cyst", 0, 0.49),
            score("2", "cyst", 1, 0.8, "wrong"),  # a wrong answer counts in the denominator and can be found
            score("4", "FNH", 1, 0.6),  # two views of one case count once together
            score("4", "FNH", 0, 0.1),
            score("5", "FNH", 0, 0.35),
        ],
    )
}  # case 3 is a cyst without a mark: cyst is located over 3 of 4 cases


def test_classes_worked_by_hand() -> None:
    found = compare({"ours": HAND}, "ours", Bootstrap(100))["classes"]["ours"]
    cyst, fnh, normal = found["cyst"], found["FNH"], found["normal"]
    assert (cyst["cases"], fnh["cases"], normal["cases"]) == (4, 2, 1)
    assert (cyst["recall"]["value"], fnh["recall"]["value"]) == (0.5, 1.0)
    assert cyst["localized_0.5"]["value"] == pytest.approx(2 / 3) and cyst["localized_0.5"]["n"] == 3
    assert cyst["localized_0.3"]["value"] == 1.0
    assert cyst["pointing_game"]["value"] == pytest.approx(2 / 3)
    assert fnh["localized_0.5"]["value"] == pytest.approx((0.5 + 0) / 2) and fnh["localized_0.5"]["n"] == 2
    assert fnh["localized_0.3"]["value"] == pytest.approx((0.5 + 1) / 2)
    assert fnh["pointing_game"]["value"] == pytest.approx((0.5 + 0) / 2)
    assert (
        normal["localized_0.5"]["value"] is None
        and "nothing was explained" in normal["pointing_game"]["reason"]
    )


def test_classes_of_volumes_are_also_told_by_cell_and_in_the_plane() -> None:
    flat = compare({"ours": HAND}, "ours", Bootstrap(100))["classes"]["ours"]["cyst"]
    assert flat["cell_hit"]["value"] is None and "of volumes" in flat["cell_hit"]["reason"]
    rows = [replace(row, cell_hit=1.0, plane_pointing=float(row.case_id == "0")) for row in HAND[0].scores]
    found = located(replace(HAND[0], scores=rows), Bootstrap(100))["cyst"]
    assert found["cell_hit"]["value"] == 1.0 and found["plane_pointing"]["value"] == pytest.approx(1 / 3)


def test_seeds_are_averaged_and_a_seed_without_maps_is_left_out() -> None:
    other = entry([0, 0, 0, 0, 1, 1, 2], [0, 0, 0, 0, 0, 0, 0], [score("0", "cyst", 0, 0.1)])
    bare = replace(HAND[0], scores=())
    found = compare({"ours": {**HAND, 1: other, 2: bare}}, "ours", Bootstrap(100))["classes"]["ours"]["cyst"]
    assert found["recall"]["value"] == pytest.approx((0.5 + 1.0 + 0.5) / 3)
    assert found["localized_0.5"]["value"] == pytest.approx((2 / 3 + 0) / 2)
    assert found["localized_0.5"]["seeds"] == {"0": pytest.approx(2 / 3), "1": 0.0, "2": None}
    assert found["localized_0.5"]["sd"] == pytest.approx((2 / 3) / np.sqrt(2)) and found["cases"] == 4


def test_boxes_that_were_not_tried_at_half_of_the_maximum_are_undefined_but_pointing_is_known() -> None:
    for swept in ((0.3, 0.7), SEVEN[:3]):
        found = located(replace(HAND[0], swept=swept), Bootstrap(100))["cyst"]
        assert found["localized_0.5"]["value"] is None
        assert "not tried at 0.5" in found["localized_0.5"]["reason"]
        assert found["pointing_game"]["value"] == pytest.approx(2 / 3)


def test_intervals_are_those_of_a_loop_over_patients() -> None:
    chance = np.random.default_rng(5)
    truth = chance.integers(3, size=30)
    label = ("cyst", "FNH", "normal")
    rows = [
        replace(score(str(case), label[truth[case]], 0, float(chance.random())), patient_id=f"q{case // 2}")
        for case in range(24)
    ]
    one = entry(truth.tolist(), truth.tolist(), rows)
    one = replace(
        one, table=replace(one.table, patient_ids=tuple(f"q{int(c) // 2}" for c in one.table.case_ids))
    )
    found = compare({"ours": {0: one}}, "ours", Bootstrap(150, 0.9, seed=4))["classes"]["ours"]
    names = np.unique(np.array(one.table.patient_ids, dtype=object))
    draws = np.random.default_rng(4).integers(len(names), size=(150, len(names)))
    for name in label[:2]:
        shares = []
        for drawn in names[draws]:
            hits = [
                row.largest_ious[4] >= 0.5
                for patient in drawn
                for row in rows
                if row.patient_id == patient and row.label == name
            ]
            shares.append(np.mean(hits) if hits else np.nan)
        value = found[name]["localized_0.5"]
        tail = tail_of(len({row.patient_id for row in rows if row.label == name}), 0.9)
        low, high = np.nanquantile(shares, [tail, 1 - tail])
        assert (value["low"], value["high"]) == pytest.approx((low, high), abs=1e-12)


# --- the pages --------------------------------------------------------------------------------------------


def with_thresholds(folder: Path) -> Path:
    """A run whose study says at which shares its boxes were tried, as every real run's does."""
    path = folder / "study.yaml"
    study = yaml.safe_load(path.read_text()) | {"localize": {"thresholds": list(SWEPT)}}
    path.write_text(yaml.safe_dump(study, sort_keys=False))
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs on liver classes: one of them has no heat maps."""
    folder = tmp_path_factory.mktemp("runs")
    first = with_thresholds(write_run(folder / "ours", patients=24, classes=LIVER))
    write_localization(first)
    second = Path(shutil.copytree(first, folder / "plain"))
    shutil.rmtree(second / "heatmaps")
    (second / "localization.csv").unlink()
    _compared(second, {})
    return [first, second]


def write_localization(folder: Path) -> None:
    """Scores of every test case but one, its class's map pointing at the truth in two of three."""
    from foveate.evaluate.scores import write_scores

    table = read_predictions(folder / "predictions.csv").part("test")
    rows = []
    for number, case in enumerate(table.case_ids[1:]):
        name = table.classes[int(table.truth[number + 1].argmax())]
        if name != "normal":
            hit = float(number % 3 > 0)
            made = replace(score(case, name, hit, 0.6 * hit), patient_id=table.patient_ids[number + 1])
            rows.append(replace(made, largest_ious=(1.0, 0.6 * hit, 0.0)))
    write_scores(folder / "localization.csv", rows)
    _compared(folder, located(RunFigures(table, scores=rows, swept=SWEPT), Bootstrap()))


def _compared(folder: Path, found: dict[str, Any]) -> None:
    """What the localize station would leave for other runs to be shown beside."""
    content = json.loads((folder / "localization.json").read_text())
    write_json(folder / "localization.json", content | {"comparable": found})


def sections(path: Path) -> dict[str, Node]:
    tree = parse(path.read_text())
    return {section.one("h2").text: section for section in tree.all("section") if section.all("table")}


def rows_of(section: Node) -> dict[str, list[str]]:
    return {row.one("th").text: [cell.text for cell in row.all("td")] for row in section.all("tr")[1:]}


@pytest.mark.parametrize("command", ["compare", "report"])
def test_pages_show_classes_beside_published_rows_that_are_told_apart(
    command: str, runs: list[Path], tmp_path: Path
) -> None:
    arguments = [
        command,
        *(["--compare"] if command == "report" else []),
        *map(str, runs),
        "--out",
        str(tmp_path),
    ]
    cli.app(arguments, standalone_mode=False)
    found = sections(tmp_path / ("comparison.html" if command == "compare" else "report.html"))
    table = read_predictions(runs[0] / "predictions.csv").part("test")
    recall, places = rows_of(found["Recall by class"]), rows_of(found["Localization accuracy by class"])
    header = [cell.text for cell in found["Recall by class"].all("tr")[0].all("th")]
    assert header == ["Run", *LIVER]
    assert recall["Test cases"] == [str(int(count)) for count in table.truth.sum(axis=0)]
    metrics = json.loads((runs[0] / "metrics.json").read_text())["per_class"]
    assert [cell.split()[0] for cell in recall["ours"]] == [
        f"{metrics[name]['recall']['value']:.3f}" for name in LIVER
    ]
    # Published rows are those of the paper, in the cohort's order of classes, and marked as such.
    assert recall["published: DADRN50-B"] == ["0.8159", "0.9116", "0.6819", "0.9551", "0.9804"]
    marked = [row.one("th").text for row in found["Recall by class"].all("tr", class_="published")]
    assert len(marked) == 10 and all(name.startswith("published: ") for name in marked)
    assert "other data" in found["Recall by class"].one("p", class_="note").text
    # Localization: lesions only, and how many of their cases were marked where that is not all.
    scores = read_scores(runs[0] / "localization.csv")
    assert len(places["ours"]) == 4 and places["published: DRN50"] == ["0.6676", "0.5941", "0.3798", "0.511"]
    for k, name in enumerate(LIVER[:4]):
        hits = [row.largest_ious[1] >= 0.5 for row in scores if row.label == name]
        cases = int(table.truth[:, LIVER.index(name)].sum())
        assert places["ours"][k].startswith(f"{np.mean(hits):.3f}")
        assert (f"{len(hits)} of {cases} cases" in places["ours"][k]) == (len(hits) < cases)
    assert places["plain"] == ["undefined 0 of " + cell + " cases" for cell in places["Test cases"]]


def test_markdown_and_csv_hold_the_same(runs: list[Path], tmp_path: Path) -> None:
    cli.app(["compare", *map(str, runs), "--out", str(tmp_path)], standalone_mode=False)
    text = (tmp_path / "comparison.md").read_text()
    assert "| published: DADRN50-B | 0.8159 | 0.9116 | 0.6819 | 0.9551 | 0.9804 |" in text
    table = (tmp_path / "comparison.csv").read_text()
    assert "DADRN50-B,published by class,cyst: recall,0.9551," in table
    assert "ours,by class,cyst: localized_0.5," in table


def test_many_findings_become_rows_and_the_published_boxes_a_column(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / name, task="multilabel", classes=tuple(CHESTXRAY14), patients=16, seed=2)
        for name in ("ours", "plain")
    ]
    for folder in runs:
        with_thresholds(folder)
        table = read_predictions(folder / "predictions.csv").part("test")
        rows = [
            replace(score(case, table.classes[k], 1.0, 0.4), largest_ious=(0.9, 0.4, 0.1))
            for case, truth in zip(table.case_ids, table.truth, strict=True)
            for k in np.flatnonzero(truth == 1)
        ]
        from foveate.evaluate.scores import write_scores

        write_scores(folder / "localization.csv", rows)
    cli.app(["compare", *map(str, runs), "--out", str(tmp_path / "out")], standalone_mode=False)
    found = sections(tmp_path / "out" / "comparison.html")
    assert list(found).index("AUROC by class") < list(found).index("Recall by class")
    section = found["Localization accuracy by class, IoU ≥ 0.3"]
    header = section.all("tr")[0].all("th")
    assert [cell.text for cell in header] == [
        "Class",
        "Test cases",
        "ours",
        "plain",
        "published: ChestX-ray8",
    ]
    assert [cell.attributes.get("class", "") for cell in header][-2:] == ["", "published"]
    rows_found = rows_of(section)
    assert rows_found["Cardiomegaly"][1].startswith("1.000") and rows_found["Cardiomegaly"][-1] == "0.46"
    assert rows_of(found["Localization accuracy by class"])["Cardiomegaly"][1].startswith("0.000")
    assert not found["Recall by class"].all("tr", class_="published")
