"""Model card, reporting guidelines, the first page, and the page on paper."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from foveate.errors import InputRefused, RunFailed, UsageError
from foveate.evaluate.results.metrics import ConfusionMatrix, Metrics
from foveate.report.build import write_report
from foveate.report.checklists import CLAIM, TRIPOD_AI, fill
from foveate.report.checklists.artefacts import _listed
from foveate.report.files import RunFiles
from foveate.report.pdf import VARIABLE, find_browser, print_pdf
from foveate.report.sections.one_minute import one_minute
from page import parse
from report_run import write_run

pytestmark = pytest.mark.slow

# As the guidelines count: CLAIM 2024 has 44 items, TRIPOD+AI 27 with these parts.
TRIPOD_NUMBERS = [
    *("1", "2", "3a", "3b", "3c", "4", "5a", "5b", "6a", "6b", "6c", "7", "8a", "8b", "8c", "9a", "9b", "9c"),
    *("10", "11", "12a", "12b", "12c", "12d", "12e", "12f", "12g", "13", "14", "15", "16", "17"),
    *("18a", "18b", "18c", "18d", "18e", "18f", "19", "20a", "20b", "20c", "21", "22", "23a", "23b", "24"),
    *("25", "26", "27a", "27b", "27c"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run"), patients=20)


def test_the_lists_have_every_item_of_their_guideline() -> None:
    assert [item.number for item in CLAIM.items] == [str(number) for number in range(1, 45)]
    assert [item.number for item in TRIPOD_AI.items] == TRIPOD_NUMBERS
    assert len({number.rstrip("abcdefg") for number in TRIPOD_NUMBERS}) == 27
    for item in (*CLAIM.items, *TRIPOD_AI.items):
        assert item.answers or item.people, f"{item.number} asks nobody"


def test_items_are_answered_from_the_files_and_link_to_their_section(run: Path) -> None:
    page = parse(write_report(run).read_text())
    anchors = set(re.findall(r'id="([\w-]+)"', (run / "report.html").read_text()))
    files = RunFiles.read(run)
    for checklist in (CLAIM, TRIPOD_AI):
        rows = fill(checklist, files)
        for row in rows:
            assert {answer.anchor for answer in row.answers} <= anchors, row.item
            assert row.status in ("run", "partly", "people") or row.missing, row.item
    by_number = {row.item.number: row for row in fill(CLAIM, files)}
    metrics = files.metrics
    assert metrics is not None
    assert f"{metrics.n} cases of {metrics.patients} patients" in by_number["32"].answers[0].text
    value = metrics.metrics.balanced_accuracy
    told = f"balanced accuracy {value.value:.3f} [{value.low:.3f}, {value.high:.3f}]"
    assert told in by_number["37"].answers[0].text
    assert by_number["44"].status == "people" and not by_number["44"].answers
    assert "To be filled in by people: funding." in page.text


def test_what_is_not_there_yet_is_said_and_not_made_up(tmp_path: Path, run: Path) -> None:
    shutil.copy(run / "study.yaml", tmp_path)
    for checklist in (CLAIM, TRIPOD_AI):
        for row in fill(checklist, RunFiles.read(tmp_path)):
            for answer in row.answers:
                assert answer.file == "study.yaml", (row.item.number, answer)
    rows = {row.item.number: row for row in fill(CLAIM, RunFiles.read(tmp_path))}
    assert rows["37"].status == "absent" and rows["37"].missing == ("metrics.json",)
    assert one_minute(RunFiles.read(tmp_path)) == []


def test_people_answer_in_a_file_of_their_own(tmp_path: Path, run: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    (folder / "answers.yaml").write_text(
        "Intended use: adults with <b>known</b> lesions\nCLAIM 2024 5: retrospective\nTRIPOD+AI 17: ''\n"
    )
    page = parse(write_report(folder).read_text())
    assert "Intended use: adults with <b>known</b> lesions" in page.text, "escaped, on the first page"
    rows = {row.item.number: row for row in fill(CLAIM, RunFiles.read(folder))}
    assert rows["5"].status == "answered" and rows["5"].person == "retrospective"
    (folder / "answers.yaml").write_text("CLAIM 2024 45: nothing\n")
    with pytest.raises(InputRefused, match="no item called CLAIM 2024 45"):
        write_report(folder)
    (folder / "answers.yaml").write_text("- a\n- list\n")
    with pytest.raises(InputRefused, match="no pairs of item and text"):
        write_report(folder)


def test_the_first_page_answers_five_questions(run: Path) -> None:
    files = RunFiles.read(run)
    questions = {question.text: " ".join(question.sentences) for question in one_minute(files)}
    assert list(questions) == [
        "What does it do?",
        "For whom was it tested?",
        "How good is it?",
        "Where does it fail?",
        "Can the pictures be trusted?",
    ]
    metrics = files.metrics
    assert metrics is not None
    recalls = {name: part.recall.value for name, part in metrics.per_class.items()}
    assert (
        f"It misses {min(recalls, key=lambda name: recalls[name])} most" in questions["Where does it fail?"]
    )
    assert isinstance(metrics.confusion, ConfusionMatrix)
    counts = metrics.confusion.counts
    most = max(n for i, row in enumerate(counts) for j, n in enumerate(row) if i != j)
    assert f"The most frequent error ({most} of " in questions["Where does it fail?"]
    trust, probes = files.trust, files.probes
    assert trust is not None and probes is not None
    answer = questions["Can the pictures be trusted?"]
    assert all(found.sentence in answer for found in probes.shortcuts)
    assert all(method in answer for method in trust.methods)
    sentences = [card.verdict.sentence for card in trust.methods.values()]
    assert sum(sentence in answer for sentence in set(sentences)) == 1  # of the study's method alone


def test_who_misses_nothing_is_not_said_to_miss_a_class(run: Path) -> None:
    files = RunFiles.read(run)
    assert files.metrics is not None
    content = files.metrics.to_json()
    for part in content["per_class"].values():
        part["recall"]["value"] = 1.0
    content["confusion"]["counts"] = [
        [n * (i == j) for j, n in enumerate(row)] for i, row in enumerate(content["confusion"]["counts"])
    ]
    perfect = replace(files, metrics=Metrics.from_json(content))
    answers = {item.text: " ".join(item.sentences) for item in one_minute(perfect)}
    assert "No case of this test was decided wrong" in answers["Where does it fail?"]
    assert "It misses" not in answers["Where does it fail?"]


def test_a_gap_is_told_on_the_first_page_only_if_chance_does_not_explain_it(
    run: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    metrics = json.loads((folder / "metrics.json").read_text())
    for p, told in ((0.2, False), (0.01, True)):
        gap = {"value": 0.3, "low": 0.1, "high": 0.5, "largest": "F", "smallest": "M", "p": p, "p_holm": p}
        metrics["subgroups"]["sex"]["gaps"] = {"accuracy": gap | {"n": 40, "patients": 20, "reason": None}}
        (folder / "metrics.json").write_text(json.dumps(metrics))
        where = one_minute(RunFiles.read(folder))[3].sentences
        assert ("By sex, accuracy is lower for M than for F, by 0.30 [0.10, 0.50]." in where) == told


def test_a_page_is_printed_whole(run: Path, tmp_path: Path) -> None:
    try:
        find_browser()
    except UsageError:
        pytest.skip("no Chromium on this machine (on Debian: apt-get install chromium)")
    page = write_report(run)
    opened = page.with_name("opened.html")
    text = page.read_text(encoding="utf-8")
    opened.write_text(text.replace("<details>", "<details open>"), encoding="utf-8")
    assert "<details>" in text
    pages = []
    for each in (page, opened):
        content = print_pdf(each, tmp_path / "report.pdf").read_bytes()
        assert content.startswith(b"%PDF") and content.rstrip().endswith(b"%%EOF")
        pages.append(len(re.findall(rb"/Type\s*/Page\b", content)))
    assert pages[0] == pages[1] >= 3, "what is folded on the screen is printed too"
    assert [path.name for path in tmp_path.iterdir()] == ["report.pdf"], "nothing half-written stays"


def test_without_a_browser_printing_says_what_to_do(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "no-such-browser")
    with pytest.raises(UsageError, match="names no program: no-such-browser"):
        print_pdf(run / "report.html", tmp_path / "report.pdf")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(VARIABLE)
    with pytest.raises(UsageError, match="no browser here"):
        print_pdf(run / "report.html", tmp_path / "report.pdf")
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho it cannot >&2\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setenv(VARIABLE, str(broken))
    with pytest.raises(RunFailed, match="it cannot"):
        print_pdf(run / "report.html", tmp_path / "report.pdf")
    assert not (tmp_path / "report.pdf").exists()


def test_the_command_prints_too(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    command = [str(Path(sys.executable).with_name("foveate")), "report", str(folder), "--pdf"]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, VARIABLE: "no-such-browser"}, check=False
    )
    assert done.returncode == 2 and "no-browser" in done.stderr
    assert (folder / "report.html").is_file(), "the page itself is there"


def test_settings_are_told_as_what_they_are() -> None:
    settings = {"size": [96, 64], "percentiles": [0.5, 99.5], "depths": [3, 6], "flip": [], "window": None}
    told = "size 96 × 64; percentiles 0.5 to 99.5; depths 3, 6; flip none; window none"
    assert _listed(settings) == told
