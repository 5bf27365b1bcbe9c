"""Cores by every limit; processes give what threads give, in order, and lose only what crashes them."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
import torch

import foveate.data.dataset as dataset
from decoder_that_dies import doubled
from foveate import parallel
from foveate.data.cache import PreparedCache
from foveate.data.dataset import PreparedCases
from foveate.errors import InputRefused
from foveate.parallel import in_processes, process_count
from foveate.prepare.preprocess import Preprocess
from foveate.study.settings import PreprocessConfig
from foveate.train.feed import Device, FedPart, Feed
from tiny_training import tiny_cohort, tiny_study

SIZE = Preprocess(PreprocessConfig(size=(16, 16)))


def test_what_ends_its_process_is_refused_and_the_others_keep_their_order() -> None:
    found = list(in_processes(doubled, [0, 3, 1, 2], processes=1))
    refused = found.pop(1)
    assert isinstance(refused, InputRefused) and refused.code == "decoder-crashed"
    assert found == [0, 2, 4]


def test_there_is_a_process_and_not_more_than_cores() -> None:
    assert 1 <= process_count() <= (os.cpu_count() or 1)


@pytest.mark.parametrize(
    ("affinity", "slurm", "own", "above", "count"),
    [
        (6, "", "", "", 6),
        (6, "4", "max 100000", "", 4),
        (6, "", "max 100000", "150000 100000", 2),  # one core and a half
        (6, "4", "300000 100000", "max 100000", 3),
        (6, "", "20000 100000", "", 1),
    ],
)
def test_cores_are_those_that_every_limit_leaves(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    affinity: int,
    slurm: str,
    own: str,
    above: str,
    count: int,
) -> None:
    inner = tmp_path / "mounted" / "pods" / "one"
    inner.mkdir(parents=True)
    for folder, text in ((inner, own), (inner.parent, above)):
        if text:
            (folder / "cpu.max").write_text(f"{text}\n")
    (tmp_path / "ours").write_text("1:name=systemd:/else\n0::/pods/one\n")
    monkeypatch.setattr(parallel, "_CGROUPS", (tmp_path / "mounted", tmp_path / "ours"))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(affinity)), raising=False)
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", slurm)
    assert parallel.core_count() == count


def test_no_more_is_read_ahead_than_asked_for() -> None:
    started: list[int] = []
    items = parallel.read_ahead(started.append, range(100), 1, ahead=3)
    next(items)
    time.sleep(0.05)
    assert started == [0, 1, 2, 3]
    items.close()


@pytest.mark.slow
def test_processes_prepare_what_threads_prepare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cohort = tiny_cohort(tmp_path / "images", count=12)
    bad = tmp_path / "images" / "11.png"
    outcomes = {}
    for how in ("threads", "processes"):
        bad.write_bytes(b"not a picture")
        cache = PreparedCache(tmp_path / how, 10**9)
        cases = PreparedCases(cohort.cases, ("image",), SIZE, cache)
        if how == "processes":
            monkeypatch.setattr(dataset, "_TRYING_SECONDS", -1.0)
            monkeypatch.setattr(dataset, "_LONG_SECONDS", -1.0)
            monkeypatch.setattr(dataset, "process_count", lambda: 1)
        outcomes[how] = cases.fill()
        monkeypatch.setattr(dataset, "read_image", None)  # from now on nothing may be decoded here
        outcomes[f"{how}: pixels"] = cases.batch(range(11))["image"]
        monkeypatch.undo()
    for found in (outcomes["threads"], outcomes["processes"]):
        assert (found.made, found.found) == (11, 0)
        [(case, error)] = found.refused
        assert case.case_id == "case11" and error.code == outcomes["threads"].refused[0][1].code
    assert torch.equal(outcomes["threads: pixels"], outcomes["processes: pixels"])


def test_an_epoch_after_the_first_touches_no_original_file(tmp_path: Path) -> None:
    cohort, study = tiny_cohort(tmp_path / "images"), tiny_study(tmp_path)
    preprocess = Preprocess(study.preprocess)
    cases = PreparedCases(cohort.cases, ("image",), preprocess, PreparedCache(tmp_path / "cache", 10**9))
    cases.fill()
    parts = [FedPart.of(cohort, cases.part(cohort.cases[part])) for part in (slice(18), slice(18, 24))]
    feed = Feed(study, *parts, preprocess, Device(torch.device("cpu")))
    before = [batch.views["image"] for batch in feed.training(1, 0)]
    for path in (tmp_path / "images").iterdir():
        path.unlink()
    after = [batch.views["image"] for batch in feed.training(1, 0)]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert sum(len(batch.case_ids) for batch in feed.validation()) == 6


def test_batches_are_made_ahead_in_threads_and_are_the_same(tmp_path: Path) -> None:
    cohort, study = tiny_cohort(tmp_path / "images"), tiny_study(tmp_path)
    preprocess = Preprocess(study.preprocess)
    cases = PreparedCases(cohort.cases, ("image",), preprocess, None)
    part = FedPart.of(cohort, cases)
    feed = Feed(study, part, part, preprocess, Device(torch.device("cpu")))
    made_in: set[int] = set()
    normalize = preprocess.normalize

    def noted(values: torch.Tensor, view: str) -> torch.Tensor:
        made_in.add(threading.get_ident())
        return normalize(values, view)

    plain = list(feed.training(0, 1))
    preprocess.normalize = noted  # type: ignore[method-assign,assignment]
    feed.threads = 2
    ahead = list(feed.training(0, 1))
    assert made_in and threading.get_ident() not in made_in, "augmentation and normalization too"
    for one, other in zip(plain, ahead, strict=True):
        assert one.case_ids == other.case_ids and torch.equal(one.views["image"], other.views["image"])
