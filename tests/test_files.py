"""Files are whole or absent, whatever happens while they are written."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from foveate import files


def test_a_failure_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    files.write_json(path, {"old": 1})
    with pytest.raises(RuntimeError), files.replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert json.loads(path.read_text()) == {"old": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["metrics.json"]


def test_nan_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(tmp_path / "m.json", {"auroc": float("nan")})
    assert not list(tmp_path.iterdir())


def test_content_is_synced_before_it_takes_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    sync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (order.append("sync"), sync(fd))[1])
    monkeypatch.setattr(Path, "replace", lambda self, to: (order.append("rename"), replace(self, to))[1])
    files.write_atomic(tmp_path / "a" / "ü.txt", "grün\n")
    assert order == ["sync", "rename", "sync"]
    assert (tmp_path / "a" / "ü.txt").read_bytes() == "grün\n".encode()


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        files.write_atomic(tmp_path / "f", b"x")
    finally:
        os.umask(old)
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o640


def test_sha256_of_a_known_text(tmp_path: Path) -> None:
    files.write_atomic(tmp_path / "abc", b"abc")  # the example of FIPS 180-2, appendix B.1
    assert files.sha256_of(tmp_path / "abc").startswith("ba7816bf8f01cfea414140de5dae2223")
