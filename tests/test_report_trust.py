"""The trust card on the page: verdicts and figures are those of the file, a shortcut comes first."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from foveate.cli.terminal import console
from foveate.cli.trust import show_trust
from foveate.evaluate.results.trust import TrustCard
from foveate.files import write_json
from foveate.report.build import write_report
from page import Node, parse
from report_run import write_run
from trust_run import trust_card

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trust")
    return write_run(folder, classes=("benign", "malignant"), patients=16, per_patient=1)


@pytest.fixture(scope="module")
def section(run: Path) -> Node:
    return parse(write_report(run).read_text()).one("section", id="trust")


def test_verdicts_are_those_of_the_file(run: Path, section: Node) -> None:
    card = json.loads((run / "trust.json").read_text())
    for name, found in card["methods"].items():
        assert section.one("tr", data_method=name).one("td").text == found["verdict"]["sentence"]
    assert card["methods"]["gradcam"]["verdict"]["usable_for"], "this one does well"
    assert "not shown to be better" in card["methods"]["smoothgrad"]["verdict"]["sentence"]


def test_conditions_say_what_was_passed_by_whom(run: Path, section: Node) -> None:
    card = json.loads((run / "trust.json").read_text())
    cards = card["methods"] | card["controls"]
    tested = [found["conditions"] for found in cards.values() if found.get("conditions")]
    for row in section.one("table", class_="conditions").one("tbody").all("tr"):
        name = row.attributes["data-condition"]
        states = [cell.attributes["data-state"] for cell in row.all("td")]
        assert states == [found.get(name, {}).get("state", "") for found in tested], name
    edge = card["controls"]["edge"]["conditions"]["randomisation"]["state"]
    assert edge == "failed", "an edge map stays as it is when the model forgets"


def test_figures_are_those_of_the_file(run: Path, section: Node) -> None:
    card = TrustCard.from_json(json.loads((run / "trust.json").read_text()))
    cards = [found for found in card.cards.values() if found.scores]
    for row in section.one("table", class_="scores").one("tbody").all("tr"):
        values = [found.score(row.attributes["data-score"]) for found in cards]
        shown = [n for v in values for n in (v.value, v.low, v.high) if n is not None and v.value is not None]
        assert row.numbers == shown, row.attributes["data-score"]


def test_every_rule_stands_on_the_page(run: Path, section: Node) -> None:
    rules = json.loads((run / "trust.json").read_text())["rules"]
    for name, text in rules.items():
        assert section.one("div", data_rule=name).one("dd").text == text


def test_a_shortcut_comes_first(run: Path, tmp_path: Path) -> None:
    kept = (run / "trust.json").read_text()
    patients = [f"p{number}" for number in range(16)]
    try:
        card = trust_card(patients, ("benign", "malignant"), flags=["A marker at the top right decides."])
        write_json(run / "trust.json", card)
        page = write_report(run, tmp_path / "report.html").read_text()
    finally:
        (run / "trust.json").write_text(kept)
    section = parse(page).one("section", id="trust")
    warning = section.one("div", data_flagged="true")
    assert "A marker at the top right decides." in warning.text
    whole = section.text
    assert whole.index("A marker at the top right") < whole.index("usable for")
    assert "but the model was found to use a shortcut" in whole


def test_guided_methods_come_with_their_caveat(run: Path, tmp_path: Path) -> None:
    kept = (run / "trust.json").read_text()
    card = json.loads(kept)
    card["methods"]["guided_backprop"] = card["methods"]["smoothgrad"]
    try:
        write_json(run / "trust.json", card)
        section = parse(write_report(run, tmp_path / "report.html").read_text()).one("section", id="trust")
    finally:
        (run / "trust.json").write_text(kept)
    said = section.one("tr", data_method="guided_backprop").one("td").one("small").text
    assert said.startswith("Beware: guided maps stay much the same") and "Adebayo" in said
    with console.capture() as caught:
        show_trust(TrustCard.from_json(card))
    assert "beware of guided_backprop: guided maps stay much the same" in caught.get()


def test_what_is_printed(run: Path) -> None:
    card = json.loads((run / "trust.json").read_text())
    with console.capture() as caught:
        show_trust(TrustCard.from_json(card | {"flags": ["A marker decides."]}))
    lines = caught.get().splitlines()
    assert lines[0].strip() == "beware: A marker decides."
    rows = {line.split()[0]: line.split()[1:] for line in lines if line.strip()}
    forgets = next(line.split() for line in lines if "forgets" in line).index("forgets") - 2  # "16 cases"
    assert rows["gradcam"][forgets] == "✓" and rows["smoothgrad"][forgets] == "✗"
    assert f"gradcam: {card['methods']['gradcam']['verdict']['sentence']}" in caught.get()


def test_a_file_of_0_1_0_opens(run: Path) -> None:
    old = json.loads((run / "trust.json").read_text())
    for name in ("format", "classes", "rivals"):
        del old[name]
    del old["plan"]["costly"]
    for found in (*old["methods"].values(), *old["controls"].values()):
        for condition in found.get("conditions", {}).values():
            del condition["worse_than"]
    card = TrustCard.from_json(old)
    assert card.format == 0 and card.plan.costly == () and card.rivals == {}
    assert card.verdicts["gradcam"].usable_for and "cam" in card.verdicts
    assert card.methods["gradcam"].conditions["randomisation"].worse_than == ()
    assert card.cards["edge"].score("nothing of the kind").value is None
