"""The list of cautions: what must be on the first page and what must not, the worst first."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from cohort_files import write_csv
from foveate.errors import InputRefused
from foveate.evaluate.results.cautions import Caution, Cautions
from foveate.evaluate.table import read_predictions
from foveate.evaluate.unlike import unlike_images
from foveate.files import write_json
from foveate.report.build import write_report
from foveate.report.cautions import HARM, find_cautions, in_words, of_runs
from foveate.report.files import RunFiles
from page import parse
from report_run import write_run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes, seventy patients: nothing about it is small."""
    folder = tmp_path_factory.mktemp("cautions")
    write_run(folder, classes=("benign", "malignant"), patients=160, per_patient=1)
    for name in ("audit.json", "probes.json"):
        write_json(folder / name, _harmless(read(folder, name)))
    _card(folder, ["localizing"], "usable for localizing.")
    _differences(folder, 0.1, 0.3)
    return folder


def _harmless(content: dict[str, Any]) -> dict[str, Any]:
    """An audit without findings, probes without shortcuts and leaks."""
    if "findings" in content:
        return content | {"findings": [], "allowed": []}
    return content | {"shortcuts": [], "leaks": [], "tiles": 28}


def read(run: Path, name: str) -> Any:
    return json.loads((run / name).read_text())


def _card(folder: Path, usable: list[str], sentence: str) -> None:
    """What the trust card says of every method."""
    card = read(folder, "trust.json")
    for found in card["methods"].values():
        found["verdict"] = {"usable_for": usable, "sentence": sentence}
    write_json(folder / "trust.json", card)


def _differences(folder: Path, low: float, high: float) -> None:
    """What the heat maps do better than each control in the pointing game."""
    found = read(folder, "localization.json")
    value = {"value": (low + high) / 2, "low": low, "high": high, "n": 40, "patients": 40, "reason": None}
    found["differences"] = {name: {"pointing_game": value} for name in ("random", "centre", "edge")}
    write_json(folder / "localization.json", found)


def found_in(run: Path, tmp_path: Path, **changes: Any) -> dict[str, str]:
    """Sentences by code of a copy of a run in which files are changed; None removes one."""
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    for name, change in changes.items():
        path = copy / f"{name}.json"
        if change is None:
            path.unlink()
        else:
            content = json.loads(path.read_text())
            change(content)
            write_json(path, content)
    return {item.code: item.sentence for item in find_cautions(RunFiles.read(copy)).items}


def test_without_a_reason_it_says_what_was_and_was_not_looked_for(run: Path, tmp_path: Path) -> None:
    found = find_cautions(RunFiles.read(run))
    assert found.items == () and not found.not_asked and len(found.asked) == 6
    page = parse(write_report(run, tmp_path / "report.html").read_text())
    assert not page.all("aside", class_="cautions")
    assert "No reason for caution was found. Looked for: leakage" in page.text
    assert found_in(run, tmp_path, probes=None, trust=None) == {}
    left = find_cautions(RunFiles.read(tmp_path / "copy"))
    assert len(left.asked) == 3 and "shortcuts in the image (foveate probe has not run)" in left.not_asked
    assert "Not looked for: labels told by metadata" in left.all_clear


def _note(code: str, severity: str = "note", allowed: bool = False) -> dict[str, Any]:
    message = f"message of {code}"
    return dict(code=code, severity=severity, message=message, case_ids=[], groups=[], allowed=allowed)


@pytest.mark.parametrize(
    ("code", "caution"),
    [
        ("patients-unknown", "patients-unknown"),
        ("sizes-tell-label", "label-told"),
        ("metadata-tells-label", "label-told"),
        ("names-tell-label", "names-tell"),
        ("mixed-colour", "noted"),
    ],
)
def test_notes_of_the_audit_reach_the_first_page(run: Path, tmp_path: Path, code: str, caution: str) -> None:
    found = found_in(run, tmp_path, audit=lambda audit: audit["findings"].append(_note(code)))
    assert found == {caution: f"Message of {code}."}


def test_harmless_notes_do_not(run: Path, tmp_path: Path) -> None:
    notes = [_note("near-duplicates"), _note("exact-duplicates"), _note("dark-image")]
    assert found_in(run, tmp_path, audit=lambda audit: audit["findings"].extend(notes)) == {}


def test_an_accepted_fault_is_said_to_be_one(run: Path, tmp_path: Path) -> None:
    fault = _note("patient-in-two-splits", "stop", allowed=True)
    found = found_in(run, tmp_path, audit=lambda audit: audit["findings"].append(fault))
    assert list(found) == ["accepted"] and "accepted by whoever ran the study" in found["accepted"]


def _value(value: float, low: float | None, high: float | None) -> dict[str, Any]:
    return {"value": value, "low": low, "high": high, "n": 120, "patients": 120, "reason": None}


def test_a_network_that_may_be_guessing_is_not_passed_over(run: Path, tmp_path: Path) -> None:
    def guess(metrics: Any) -> None:
        metrics["metrics"]["auroc_macro"] = _value(0.55, 0.45, 0.66)

    found = found_in(run, tmp_path, metrics=guess)
    assert found["no-better-than-guessing"].endswith("guessing: macro AUROC 0.55 [0.45, 0.66].")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_value(0.05, 0.01, 0.09), "made the probabilities worse"),
        (_value(0.05, -0.01, 0.09), "not shown to have helped"),
        (_value(0.002, -0.01, 0.01), ""),
        (_value(-0.05, -0.09, -0.01), ""),
    ],
)
def test_calibration_is_named_where_it_did_harm(
    run: Path, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    def changed(metrics: Any) -> None:
        metrics["calibration"]["calibrated"]["change"]["log_loss"] = change

    found = found_in(run, tmp_path, metrics=changed)
    assert set(found) == ({"calibration-worse"} if words else set())
    assert words in found.get("calibration-worse", "")


def test_small_numbers_are_named(run: Path, tmp_path: Path) -> None:
    def few(metrics: Any) -> None:
        metrics["patients"] = 22
        metrics["per_class"]["malignant"]["n"] = 7

    found = found_in(run, tmp_path, metrics=few)
    assert set(found) == {"few-patients", "few-events"} and "Only 22 patients" in found["few-patients"]
    known = read(run, "metrics.json")["per_class"]["malignant"]["auroc"]["n"]
    assert f"malignant (7 of {known} cases)" in found["few-events"]


def test_few_cases_of_unknown_patients_are_not_called_patients(run: Path, tmp_path: Path) -> None:
    def few(metrics: Any) -> None:
        metrics |= {"n": 22, "patients": 22, "patients_known": False}

    found = found_in(run, tmp_path, metrics=few)
    assert found["few-patients"].startswith("Only 22 cases (patients unknown) were tested.")


def test_choices_on_a_small_validation_part_are_listed(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "few", classes=("benign", "malignant"), patients=88, per_patient=1)
    found = {item.code: item.sentence for item in find_cautions(RunFiles.read(folder)).items}
    assert "Only 22 validation cases of 22 patients chose the epoch" in found["small-validation"]


def test_limits_that_few_patients_cannot_give_are_named(run: Path, tmp_path: Path) -> None:
    def of(novelty: bool | None, look: bool) -> dict[str, str]:
        def changed(bundle: Any) -> None:
            bundle["novelty"] = None if novelty is None else {"threshold": 1.0, "held": novelty}
            bundle["familiar"] = {"views": {"image": {"held": look}}}

        place = tmp_path / f"{novelty}{look}"
        return found_in(run, place, **{"bundle/bundle": changed})

    assert of(True, True) == of(None, True) == {}
    told = of(False, True)
    assert set(told) == {"small-validation"}
    assert told["small-validation"].startswith("Too few validation patients for the limit of novelty: ")
    assert of(True, False)["small-validation"].startswith(
        "Too few training patients for the limit of looks: "
    )
    both = of(False, False)["small-validation"]
    assert "validation patients for the limit of novelty and training patients for the limit of looks" in both


@pytest.mark.parametrize(("strange", "said"), [(0, False), (11, False), (12, True)])
def test_images_plainly_unlike_the_training_images(
    run: Path, tmp_path: Path, strange: int, said: bool
) -> None:
    """Of 120 cases of as many patients 11 may be strange by chance, [.047, .158]; not 12, [.053, .168]."""
    folder = shutil.copytree(run, tmp_path / "copy")
    with (folder / "predictions.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    tested = [row for row in rows if row["split"] == "test"]
    assert len(tested) == 120
    for number, row in enumerate(tested[:strange]):
        row["abstain"] = "novel;unlike-colour;unlike-size" if number % 2 else "unlike-colour"
    for row in rows:
        if row["split"] == "val":
            row["abstain"] = "unlike-values"  # not what was tested
    write_csv(folder / "predictions.csv", rows)
    unlike = unlike_images(read_predictions(folder / "predictions.csv").part("test"), 0.95)
    write_json(
        folder / "metrics.json", read(folder, "metrics.json") | {"unlike": unlike and unlike.to_json()}
    )
    found = {item.code: item for item in find_cautions(RunFiles.read(folder)).items}
    assert set(found) == ({"unlike-images"} if said else set())
    if said:
        told = "12 of 120 cases are plainly unlike what the model learned from: colour in 12, size in 6."
        assert found["unlike-images"].sentence == told


def test_shortcuts_and_leaks_come_with_the_network_beside(run: Path, tmp_path: Path) -> None:
    def leak(probes: Any, better: bool) -> None:
        probes["shortcuts"] = [
            {"sentence": "A marker decides.", "kind": "marker", "where": {}, "class": "benign"}
        ]
        leak = {"kind": "metadata", "sentence": "The size tells.", "class": "benign"}
        probes["leaks"] = [leak | {"network_better": better}]

    equal = found_in(run, tmp_path / "1", probes=lambda probes: leak(probes, False))
    assert equal == {"shortcut": "A marker decides.", "told-without-looking": "The size tells."}
    better = found_in(run, tmp_path / "2", probes=lambda probes: leak(probes, True))
    assert better == {"shortcut": "A marker decides.", "label-told": "The size tells."}


def test_a_search_that_could_ask_nothing_is_no_all_clear(run: Path, tmp_path: Path) -> None:
    def asked(probes: Any) -> None:
        probes["tiles"] = 0

    found = found_in(run, tmp_path, probes=asked)
    assert "could ask about 0 tiles" in found["few-questions"]


def test_maps_are_named_where_a_control_is_as_good(run: Path, tmp_path: Path) -> None:
    def worse(found: Any) -> None:
        found["differences"]["edge"]["pointing_game"] = _value(-0.2, -0.3, -0.1)

    found = found_in(run, tmp_path, localization=worse)
    assert "worse than an edge map of the image" in found["maps-miss"]
    assert "better than a random map" in found["maps-miss"]


def test_maps_of_no_use_are_named_with_the_verdict_of_the_card(run: Path, tmp_path: Path) -> None:
    def useless(card: Any) -> None:
        for found in card["methods"].values():
            found["verdict"] = {"usable_for": [], "sentence": "worse than an edge map at localizing."}

    found = found_in(run, tmp_path, trust=useless)
    assert found["maps-unusable"].endswith(": worse than an edge map at localizing.")


def test_the_worst_comes_first_and_the_file_keeps_the_order(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    found = find_cautions(RunFiles.read(folder))
    places = [list(HARM).index(item.code) for item in found.items]
    assert len(places) > 3 and places == sorted(places)
    found.write(tmp_path)
    back = Cautions.read(tmp_path)
    assert back is not None and back.to_json() == found.to_json() and Cautions.read(tmp_path / "run") is None
    (tmp_path / Cautions.NAME).write_text('{"cautions": [{"code": 1}]}')
    with pytest.raises(InputRefused, match=r"cautions\.0\.code"):
        Cautions.read(tmp_path)


def test_what_is_given_away_names_no_case() -> None:
    def of(sentence: str) -> Cautions:
        few = Caution(code="few-events", sentence="Few cases: a (3 of 9 cases): b.", section="performance")
        fault = Caution(code="accepted", sentence=sentence, section="data")
        return Cautions(items=(fault, few), asked=("a",), not_asked=())

    told = "The audit found “refused-image”, accepted by whoever ran the study: 2 images cannot be read"
    assert of(f"{told}: case-1: empty; case-2: torn.").for_others() == of(f"{told}.")
    plain = of("The audit found “x”: message of x.")
    assert plain.for_others() == plain


def test_of_several_runs_each_is_said_once_with_its_runs(run: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "other", classes=("benign", "malignant"), patients=40, per_patient=1)
    runs = {"one": RunFiles.read(run), "two": RunFiles.read(other), "three": RunFiles.read(other)}
    found = of_runs(runs)
    assert found and all(item.runs == ("two", "three") for item in found)
    assert in_words(found, 3)[0].startswith("two, three: ") and in_words(found, 2)[0] == found[0].sentence


def test_where_patients_are_unknown_nobody_counts_them(run: Path, tmp_path: Path) -> None:
    found_in(run, tmp_path, audit=lambda audit: audit["findings"].append(_note("patients-unknown")))
    write_report(tmp_path / "copy")
    page = (tmp_path / "copy" / "report.html").read_text()
    assert "(patients unknown)" in page
    assert ">Patients<" not in page and 'data-row="patients"' not in page
    assert "% intervals over cases" in page and "intervals over patients" not in page
    assert "120 patients" not in page and "160 patients" not in page


def test_the_summary_is_the_head_of_the_report(run: Path, tmp_path: Path) -> None:
    write_report(run, tmp_path / "report.html")
    whole, short = (parse((tmp_path / name).read_text()) for name in ("report.html", "summary.html"))
    assert [tile.text for tile in short.all("div", class_="tile")] == [
        tile.text for tile in whole.all("div", class_="tile")
    ]
    pictures = [card.attributes["data-case"] for card in short.all("article")]
    assert 1 <= len(pictures) <= 4 and len(set(pictures)) == len(pictures)
    assert all(a.attributes["href"].startswith("report.html") for a in short.all("a"))
