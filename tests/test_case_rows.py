"""The same cases of several runs side by side: which are chosen, and what is shown of them."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from foveate.evaluate import evaluate_predictions
from foveate.evaluate.localization import CaseScore
from foveate.evaluate.scores import read_scores, write_scores
from foveate.evaluate.table import read_predictions, write_predictions
from foveate.maps.heatmaps import MapEntry, file_name, write_case, write_index
from foveate.report.comparing.case_rows import reduced
from foveate.report.comparing.side_by_side import write_side_by_side
from foveate.report.pictures.case_choice import ChoiceRules, Pick, RunAnswers
from foveate.report.pictures.case_sheets import case_sheets
from foveate.types import Array, Box, Heatmap, Prediction, Task
from page import Node, parse

CLASSES = ("cyst", "FNH")
SIDE = 40


# --- the rules --------------------------------------------------------------------------------------------


def answers(right: Sequence[bool], probability: Sequence[float], quality: Mapping[str, float]) -> RunAnswers:
    """One run's about one class."""
    return RunAnswers(
        np.array(probability)[:, None],
        np.array(right)[:, None],
        {(case, "FNH"): q for case, q in quality.items()},
    )


NAMES = ("a", "b", "c", "d", "e", "f")
ENERGY = {"a": 0.1, "b": 0.2, "c": 0.9, "d": 0.5, "e": 0.4}  # f is not marked
PLAIN = answers([True, True, False, True, False, True], [0.9, 0.8, 0.3, 0.7, 0.2, 0.6], ENERGY)
OURS = answers(
    [True, False, True, False, False, True], [0.8, 0.4, 0.9, 0.3, 0.1, 0.7], dict.fromkeys("abcde", 0.5)
)


def chosen(
    names: Sequence[str] = NAMES,
    runs: Mapping[str, RunAnswers] | None = None,
    likeness: Mapping[str, float] | None = None,
    rows: Sequence[int] = range(6),
) -> list[Pick]:
    found = likeness or {}
    rules = ChoiceRules(
        names,
        ("FNH",),
        runs or {"plain": PLAIN, "ours": OURS},
        None if likeness is None else lambda case, name: found[case],
    )
    return rules.picks(0, rows)


def first_by_lot(*names: str) -> str:
    return min(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())


def test_rules_worked_by_hand() -> None:
    # Mean energy inside: a .3, b .35, c .7, d .5, e .45; f is not marked. The middle one of five is e.
    # plain alone is right on b and d, ours alone on c. Of the rest (a, f and b or d) the least alike is a.
    alike = {"a": -0.25, "b": 0.5, "d": 0.5, "f": 0.9}
    picks = chosen(likeness=alike)
    assert [NAMES[pick.row] for pick in picks] == ["e", first_by_lot("b", "d"), "c", "a"]
    assert [pick.rule for pick in picks] == [
        "Median case", "plain right, ours wrong", "plain wrong, ours right", "Maps least alike",
    ]  # fmt: skip
    assert picks[0].detail == "the middle one of 5 by the runs’ mean evidence inside the marks, 0.45"
    assert picks[1].detail == "one of 2 such cases, by lot" and picks[2].detail == "the only such case"
    assert picks[3].detail == "rank correlation −0.25, the lowest of 3 cases"


def test_neither_the_order_of_cases_nor_what_they_look_like_decides_a_lot() -> None:
    order = [3, 0, 5, 1, 4, 2]
    turned = [NAMES[row] for row in order]
    runs = {
        label: replace(run, probabilities=run.probabilities[order], right=run.right[order])
        for label, run in {"plain": PLAIN, "ours": OURS}.items()
    }
    assert [turned[p.row] for p in chosen(turned, runs)] == [NAMES[p.row] for p in chosen()]
    # Other names, another lot: whether "b" or "d" comes first depends on nothing but how they are called.
    seen = {
        chosen([*NAMES[:3], f"d{number}", *NAMES[4:]], rows=(1, 3), runs=swapped(number))[0].row
        for number in range(12)
    }
    assert seen == {1, 3}


def swapped(number: int) -> dict[str, RunAnswers]:
    """Both runs without quality: the median goes by probability, which is the same for all cases."""
    same = answers([True] * 6, [0.5] * 6, {})
    return {"plain": same, "ours": same}


def test_unmarked_classes_go_by_probability_and_rules_without_a_case_are_left_out() -> None:
    plain, ours = (replace(run, quality={}) for run in (PLAIN, OURS))
    # Mean probability: a .85, b .6, c .6, d .5, e .15, f .65; of six the lower middle one, b or c by lot.
    picks = chosen(runs={"plain": plain, "ours": ours}, likeness=dict.fromkeys("abcdef", float("nan")))
    assert (
        NAMES[picks[0].row] == first_by_lot("b", "c") and "probability of the class, 0.60" in picks[0].detail
    )
    assert all(pick.rule != "Maps least alike" for pick in picks)
    agreeing = chosen(runs={"plain": plain, "ours": plain})
    assert [pick.rule for pick in agreeing] == ["Median case"]
    assert chosen(rows=[]) == []


def test_with_several_runs_any_other_one_may_differ() -> None:
    third = answers([True] * 6, [0.9] * 6, dict.fromkeys("abcde", 0.5))
    picks = {
        pick.rule: NAMES[pick.row] for pick in chosen(runs={"plain": PLAIN, "third": third, "ours": OURS})
    }
    assert picks.keys() == {"Median case", "plain right, another run wrong", "plain wrong, another run right"}
    assert picks["plain right, another run wrong"] in "bd"


def test_maps_are_reduced_to_means_of_cells() -> None:
    values = np.arange(64 * 64, dtype=np.float32).reshape(64, 64)
    small = reduced(values)
    assert small.shape == (32, 32)
    assert small[3, 5] == pytest.approx(values[6:8, 10:12].mean())
    odd = reduced(np.ones((3, 50, 7), dtype=np.float32))
    assert odd.shape == (3, 32, 7) and np.allclose(odd, 1)


# --- what is shown ----------------------------------------------------------------------------------------


def disc(at: tuple[int, int], radius: float = 4.0) -> Array:
    y, x = np.mgrid[:SIDE, :SIDE]
    return np.asarray(np.hypot(y - at[0], x - at[1]) < radius)


def bump(at: tuple[int, int], low: float = -0.5, high: float = 2.0) -> Array:
    """A map with its only maximum at one place, of a known range."""
    y, x = np.mgrid[:SIDE, :SIDE]
    near = np.exp(-((y - at[0]) ** 2 + (x - at[1]) ** 2) / 50)
    values = np.asarray(near - near.min(), dtype=np.float64)
    return np.asarray(low + (high - low) * values / values.max(), dtype=np.float32)


def write_tiny(
    folder: Path,
    probabilities: Mapping[str, Sequence[float]],
    maps: Mapping[str, Array],
    *,
    truth: Mapping[str, Sequence[int]] | None = None,
    hits: Mapping[str, tuple[float, float]] | None = None,
    task: Task = "multiclass",
    views: Sequence[str] = ("image",),
) -> Path:
    """A run of two classes: predictions, one map of ``FNH`` a case, and how these hit the marks."""
    true = truth or {case: (0, 1) for case in probabilities}
    predictions = [
        Prediction(
            case, f"patient {case}", "test", np.log(np.array(p)), np.array(p), np.array(true[case], float)
        )
        for case, p in probabilities.items()
    ]
    write_predictions(folder / "predictions.csv", task, CLASSES, predictions)
    entries = []
    for case, values in maps.items():
        for view in views:
            space = values.shape
            picture = np.full(space, 90, dtype=np.uint8)
            mask = np.zeros(space, dtype=bool)
            mask[(..., *np.s_[8:16, 20:28])] = True
            if len(space) == 3:
                mask[:1] = mask[2:] = False
            name = file_name(case, view)
            marked = (mask, ()) if view == "image" else (None, [Box((8.0, 20.0), (16.0, 28.0), "FNH")])
            write_case(
                folder / "heatmaps" / name, [Heatmap(values, "FNH", "gradcam", view, case)], picture, *marked
            )
            entries.append(
                MapEntry(case, f"patient {case}", "test", view, "gradcam", ("FNH",), "FNH", "FNH", 0.5, name)
            )
    if entries:
        write_index(folder / "heatmaps", entries)
    if hits:
        scores = [
            CaseScore(case, f"patient {case}", "FNH", "heatmap", hit, iou, 0.5, 0.5, iou, 0.1, False)
            for case, (hit, iou) in hits.items()
        ]
        write_scores(folder / "localization.csv", scores)
    return folder


PROBABILITIES = {
    "plain": {"one": (0.3, 0.7), "two": (0.2, 0.8), "three": (0.6, 0.4)},
    "ours": {"one": (0.1, 0.9), "two": (0.75, 0.25), "three": (0.05, 0.95)},
}
PEAKS = {
    "plain": {"one": (12, 24), "two": (12, 24), "three": (30, 6)},
    "ours": {"one": (30, 8), "two": (13, 23), "three": (11, 25)},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("tiny")
    hits = {"one": (1.0, 0.62), "two": (0.0, 0.21), "three": (1.0, 0.4)}
    return {
        name: write_tiny(
            folder / name,
            PROBABILITIES[name],
            {case: bump(at) for case, at in PEAKS[name].items()},
            hits=hits,
        )
        for name in PROBABILITIES
    }


def section(folders: Mapping[str, Path], out: Path) -> Node:
    page = write_side_by_side(folders, out / "report.html")
    return parse(page.read_text()).one("section", id="cases")


def panels(article: Node) -> dict[str, Node]:
    return {
        node.attributes["data-run"]: node
        for node in article.all("span", class_="panel")
        if "data-run" in node.attributes
    }


def test_a_case_is_shown_with_every_run_s_answer_map_range_and_hit(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    found = section(folders, tmp_path)
    sheet = found.one("section", data_class="FNH")
    assert [item.attributes["data-case"] for item in sheet.all("article")].count("two") == 1
    article = sheet.one("article", data_case="two")
    assert "plain right, ours wrong" in article.text and "patient two" in article.text
    shown = panels(article)
    assert list(shown) == ["plain", "ours"]
    assert "FNH 0.80 right" in shown["plain"].text and "cyst 0.75 wrong FNH 0.25" in shown["ours"].text
    assert "pointing miss, box IoU 0.21" in shown["plain"].text
    assert "raw −0.5 … 2" in shown["plain"].text
    assert [node.attributes["data-state"] for node in article.all("span", class_="state")] == [
        "passed",
        "failed",
    ]
    assert article.all("path", class_="truth"), "the mask is outlined"
    assert "No test case of this class" in found.one("section", data_class="cyst").text
    assert "3 of 3 test cases" in found.text


def decoded(node: Node) -> Array:
    """Opacity of the overlay of a panel."""
    (uri,) = (
        image.attributes["href"] for image in node.all("image") if "image/png" in image.attributes["href"]
    )
    data = base64.b64decode(re.sub(r"^data:image/png;base64,", "", uri))
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))[..., 3]


def test_every_overlay_is_the_run_s_own_map(folders: dict[str, Path], tmp_path: Path) -> None:
    for article in section(folders, tmp_path).all("article"):
        for run, node in panels(article).items():
            opacity = decoded(node)
            y, x = np.unravel_index(opacity.argmax(), opacity.shape)
            assert (y, x) == PEAKS[run][article.attributes["data-case"]]


def test_the_least_alike_maps_are_those_of_the_case_with_the_lowest_rank_correlation(
    folders: dict[str, Path],
) -> None:
    from scipy.stats import spearmanr

    found = {case.pick.rule: case for _, cases in case_sheets(folders, "plain").sheets for case in cases}
    # Three cases: "one" is the median (.62 against .21 and .4? no: .21, .4, .62 has .4 in the middle).
    assert found["Median case"].case_id == "three"
    assert found["plain right, ours wrong"].case_id == "two"
    least = found["Maps least alike"]
    assert least.case_id == "one"
    small = [reduced(bump(PEAKS[run]["one"])).ravel() for run in folders]
    expected = spearmanr(*small).statistic
    assert least.pick.detail == f"rank correlation {expected:.2f}".replace("-", "−")


def test_runs_without_maps_or_scores_say_how_to_get_them(folders: dict[str, Path], tmp_path: Path) -> None:
    bare = write_tiny(tmp_path / "bare", PROBABILITIES["ours"], {})
    found = section({"plain": folders["plain"], "bare": bare}, tmp_path)
    assert f"bare has no heat maps of these cases: foveate explain {bare}" in found.text
    article = found.all("article")[0]
    assert f"no heat maps: foveate explain {bare}" in panels(article)["bare"].text
    assert panels(article)["plain"].all("image")
    maps = {case: bump(at) for case, at in PEAKS["ours"].items()}
    unscored = write_tiny(tmp_path / "unscored", PROBABILITIES["ours"], maps)
    text = section({"plain": folders["plain"], "unscored": unscored}, tmp_path).text
    assert f"unscored was not localized, so that hits are unknown: foveate localize {unscored}" in text
    empty = section(
        {"bare": bare, "bare too": bare.rename(tmp_path / "bare2")} | {"bare": tmp_path / "bare2"}, tmp_path
    )
    assert "no run has heat maps of its test cases" in empty.text and not empty.all("article")


def test_other_cases_or_classes_are_said_and_not_shown(folders: dict[str, Path], tmp_path: Path) -> None:
    other = write_tiny(tmp_path / "other", {"four": (0.5, 0.5)}, {"four": bump((9, 9))})
    assert "no test case in common" in section({"plain": folders["plain"], "other": other}, tmp_path).text
    findings = write_tiny(tmp_path / "findings", PROBABILITIES["ours"], {}, task="multilabel")
    assert (
        "do not have the same classes" in section({"plain": folders["plain"], "f": findings}, tmp_path).text
    )
    apart = write_tiny(tmp_path / "apart", PROBABILITIES["ours"], {"two": bump((9, 9))})
    only = write_tiny(tmp_path / "only", PROBABILITIES["plain"], {"one": bump((9, 9))})
    assert "no test case with heat maps in common" in section({"a": apart, "o": only}, tmp_path).text


def test_at_most_five_runs_stand_in_a_row_the_first_among_them(folders: dict[str, Path]) -> None:
    many = {f"run {number}": folders["ours"] for number in range(6)} | {"plain": folders["plain"]}
    found = case_sheets(many, "plain", ["of every variant the run of seed 0 is shown"])
    assert found.runs == ("plain", "run 0", "run 1", "run 2", "run 3")
    assert found.notes[0].startswith("of every variant")
    assert found.notes[1] == "side by side are plain and the next 4, not run 4, run 5"
    case = found.sheets[1][1][0]
    assert [said.run for said in case.said] == list(found.runs) and len(case.rows[0].panels) == 5


def test_findings_are_told_with_their_thresholds(tmp_path: Path) -> None:
    truth = {"one": (1, 1), "two": (0, 0)}
    runs = {
        name: write_tiny(
            tmp_path / name, p, {"one": bump((9, 9)), "two": bump((9, 9))}, truth=truth, task="multilabel"
        )
        for name, p in {
            "a": {"one": (0.2, 0.7), "two": (0.1, 0.9)},
            "b": {"one": (0.2, 0.4), "two": (0.1, 0.2)},
        }.items()
    }
    table = read_predictions(runs["b"] / "predictions.csv")
    evaluate_predictions(table, thresholds={"FNH": 0.3}, n_boot=0).write(runs["b"])
    found = case_sheets(runs, "a")
    (case,) = found.sheets[1][1]  # the case without the finding is not shown
    assert case.case_id == "one" and case.truth == "cyst, FNH"
    assert [said.answer for said in case.said] == [
        "finds FNH: 0.70, threshold 0.50",
        "finds FNH: 0.40, threshold 0.30",
    ]
    assert all(said.right for said in case.said)
    (missed,) = found.sheets[0][1]
    assert missed.said[0].answer == "does not find cyst: 0.20, threshold 0.50" and not missed.said[0].right
    assert missed.rows[0].panels[0].why.startswith("no heat map was made for this class")


def test_all_runs_show_the_same_slices_of_a_volume(tmp_path: Path) -> None:
    def volume(weights: Sequence[float], scale: float) -> Array:
        return scale * np.stack([weight * bump((12, 24), 0.0, 1.0) for weight in weights])

    # Every map counts the same, though a's values are a hundred times b's. The lesion is in slice 1.
    runs = {
        "a": write_tiny(tmp_path / "a", {"one": (0.3, 0.7)}, {"one": volume([0.1, 0.2, 0.4, 0.3], 100)}),
        "b": write_tiny(tmp_path / "b", {"one": (0.3, 0.7)}, {"one": volume([0.1, 0.15, 0.25, 0.5], 1)}),
    }
    (case,) = case_sheets(runs, "a").sheets[1][1]
    # .4 + .25 = .65 in slice 2 and .3 + .5 = .8 in slice 3.
    assert [row.picture.title for row in case.rows] == [
        "Picture, slice 3 of 0–3, most evidence",
        "Picture, slice 1 of 0–3 (lesion)",
    ]
    ranges = [panel.legend.raw_high for panel in case.rows[0].panels if panel.legend]
    assert ranges == pytest.approx([40, 0.5])  # the range of the whole map, not of the slice


def test_hits_of_volumes_are_told_in_the_plane_and_in_depth(tmp_path: Path) -> None:
    values = np.stack([bump((12, 24))] * 3)
    run = write_tiny(tmp_path / "run", {"one": (0.3, 0.7)}, {"one": values}, hits={"one": (0.0, 0.1)})
    (score,) = read_scores(run / "localization.csv")
    solid = replace(score, plane_pointing=1.0, plane_iou=0.44, depth_error=2.0)
    for depth, said in ((2.0, ", 2 slices off"), (1.0, ", 1 slice off"), (float("nan"), "")):
        write_scores(run / "localization.csv", [replace(solid, depth_error=depth)])
        (case,) = case_sheets({"a": run, "b": run}, "a").sheets[1][1]
        assert case.said[0].places == f"in the plane: pointing hit, box IoU 0.44{said}"


def test_views_stand_below_each_other(tmp_path: Path) -> None:
    runs = {
        name: write_tiny(
            tmp_path / name, {"one": (0.3, 0.7)}, {"one": bump((9, 9))}, views=("image", "echo"),
            hits={"one": (1.0, 0.5)},
        )
        for name in ("a", "b")
    }  # fmt: skip
    article = section(runs, tmp_path).one("article", data_case="one")
    titles = [node.text for node in article.all("span", class_="title")]
    assert titles[0] == "image" and titles[3] == "echo" and len(titles) == 6
    assert titles[1].startswith("a FNH 0.70 right") and titles[4] == "a"  # what is said stands once
    assert article.all("rect", class_="truth"), "boxes where there is no mask"


def test_a_map_of_another_size_or_a_damaged_one_is_said(folders: dict[str, Path], tmp_path: Path) -> None:
    wide = write_tiny(
        tmp_path / "wide",
        PROBABILITIES["ours"],
        {case: np.ones((20, 30), np.float32) for case in PEAKS["ours"]},
    )
    found = case_sheets({"plain": folders["plain"], "wide": wide}, "plain")
    assert found.sheets[1][1][0].rows[0].panels[1].why == "its map is of an image of another size"
    for path in (wide / "heatmaps").glob("*.npz"):
        path.write_bytes(b"no archive")
    found = case_sheets({"plain": folders["plain"], "wide": wide}, "plain")
    plain, damaged = found.sheets[1][1][0].rows[0].panels
    assert "cannot be understood" in damaged.why and damaged.drawing is None
    assert plain.drawing is not None, "the other run's map is shown all the same"
    alone = section({"wide": wide, "wide too": wide}, tmp_path)
    assert "cannot be read" in alone.all("article")[0].text


def test_a_run_that_does_not_see_a_view_says_so(tmp_path: Path) -> None:
    p, maps = {"one": (0.3, 0.7)}, {"one": bump((9, 9))}
    runs = {
        "both": write_tiny(tmp_path / "both", p, maps, views=("image", "echo")),
        "one": write_tiny(tmp_path / "one", p, maps),
    }
    first, second = case_sheets(runs, "both").sheets[1][1][0].rows
    assert all(panel.drawing for panel in first.panels)
    assert [panel.why for panel in second.panels if not panel.drawing] == ["this run does not see echo"]
