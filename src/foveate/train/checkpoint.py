"""Checkpoints that survive being interrupted at any moment, and noticing when one could not be written.

Each is a numbered file with its SHA-256 beside it, in the format of ``sha256sum``. A file is written under
a temporary name, synced, renamed, and only then gets its hash; the one before it stays until then. So at
every moment, also in the middle of a save, a whole checkpoint is on disk.

The content is plain data and tensors: it is read with ``weights_only=True``, which runs no code.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import torch

from foveate.errors import RunFailed, UsageError
from foveate.files import replacing, sha256_of, write_atomic

_NAME = re.compile(r"\d{6,}\.pt")


class CheckpointFolder:
    """The checkpoints of one run.

    Args:
        folder: made at the first save.
        identity: what the weights depend on (study, cases, …), as plain nested data; a checkpoint of
            another identity is refused.
        say: takes a warning for the user.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], say: Callable[[str], None]) -> None:
        self.folder = folder
        self._identity = _flat(identity)
        self._say = say
        self._last: Path | None = None

    def load(self) -> dict[str, Any] | None:
        """Read the newest whole checkpoint; None if there is none. Skipped ones are told of.

        Raises:
            UsageError: it belongs to another study or to other cases; both sides are named.
        """
        for leftover in self.folder.glob(".*"):  # of a save that was killed
            leftover.unlink()
        for path in sorted(self._files(), key=_serial, reverse=True):
            if problem := _damage(path):
                self._say(f"checkpoint {path.name} {problem}; going back to the one before it")
                continue
            self._last = path
            content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            self._refuse_another(content["identity"], path)
            return content
        return None

    def save(self, content: Mapping[str, Any]) -> None:
        """Write the next checkpoint and remove all but the one before it.

        Raises:
            RunFailed: it could not be written; the checkpoints before it are untouched.
        """
        path = self.folder / f"{max(map(_serial, self._files()), default=0) + 1:06d}.pt"
        try:
            with replacing(path) as temporary, temporary.open("wb") as stream:
                hashing = _HashingStream(stream)
                torch.save({**content, "identity": self._identity}, cast(IO[bytes], hashing))
                stream.flush()
            write_atomic(_hash_file(path), f"{hashing.digest()}  {path.name}\n")
        except (OSError, RuntimeError) as error:
            raise RunFailed(
                f"a checkpoint could not be saved: {_system_error(error)}",
                where=str(path),
                fix="make room and run the same command again: it goes on from the last checkpoint",
                code="checkpoint-not-saved",
            ) from error
        self._remove_all_but(self._last, path)
        self._last = path

    def clear(self) -> None:
        """Remove every checkpoint, to start anew."""
        self._remove_all_but()

    def _refuse_another(self, found: Mapping[str, str], path: Path) -> None:
        names = [name for name in {**found, **self._identity} if found.get(name) != self._identity.get(name)]
        if names:
            here = self._identity
            sides = "\n".join(f"  - {name}: {found.get(name)} there, {here.get(name)} here" for name in names)
            raise UsageError(
                f"this checkpoint belongs to another training\n{sides}",
                where=str(path),
                fix="put these back as they were, or give another run folder",
                code="another-study",
            )

    def _files(self) -> list[Path]:
        return [path for path in self.folder.glob("*.pt") if _NAME.fullmatch(path.name)]

    def _remove_all_but(self, *kept: Path | None) -> None:
        for path in self._files():
            if path not in kept:
                _hash_file(path).unlink(missing_ok=True)
                path.unlink(missing_ok=True)


def random_state() -> dict[str, Any]:
    """The state of every random generator that a training step may draw from, as plain data."""
    version, words, gauss = random.getstate()
    numpy_state = np.random.get_state(legacy=False)
    return {
        "python": [version, list(words), gauss],
        "numpy": {
            "key": torch.from_numpy(numpy_state["state"]["key"].astype(np.int64)),
            "pos": int(numpy_state["state"]["pos"]),
            "has_gauss": int(numpy_state["has_gauss"]),
            "gauss": float(numpy_state["gauss"]),
        },
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_state(state: Mapping[str, Any]) -> None:
    """Put every generator back to where ``random_state`` found it."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    key = state["numpy"]["key"].numpy().astype(np.uint32)
    rest = (state["numpy"][name] for name in ("pos", "has_gauss", "gauss"))
    np.random.set_state(("MT19937", key, *rest))
    torch.set_rng_state(state["torch"])
    if len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and torch's generators."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


class _HashingStream:
    """A file that hashes what passes through: the hash is of what was meant, not of what arrived."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._hash = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self._hash.update(data)
        return self._stream.write(data)

    def flush(self) -> None:
        self._stream.flush()

    def digest(self) -> str:
        return self._hash.hexdigest()


def _flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as one level of ``section.key`` → JSON text."""
    flat = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = json.dumps(value)
    return flat


def _hash_file(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _serial(path: Path) -> int:
    return int(path.stem)


def _damage(path: Path) -> str:
    """What is wrong with a checkpoint, in words; empty if it is whole."""
    try:
        expected = _hash_file(path).read_text().split()[0]
    except (OSError, IndexError):
        return "was not finished"
    return "" if sha256_of(path) == expected else "is damaged"


def _system_error(error: BaseException) -> str:
    """The system's own words, which torch hides behind an error of its own."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return str(error)
