"""Pretrained weights from a file, a folder or a download: all of them fit, or the model is not built.

Nothing is ever left at random in silence: every tensor besides the classification head must be in the
file and have the right shape.
"""

from __future__ import annotations

import json
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from foveate.errors import InputRefused, UsageError
from foveate.models.timm.efficientnet_names import as_timm
from foveate.study.pretrained import PACKAGES, package_of

logger = logging.getLogger(__name__)

_FOLDER_NAMES = ("model.safetensors", "pytorch_model.bin")
_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", "")  # the cytology comparison's files have no ending
_WRAPPERS = ("state_dict", "model", "model_state_dict", "net")  # what stands around a state dict
# A checkpoint may hold scores beside its weights: NumPy's scalars, of which scikit-learn's metrics are, by
# the names that NumPy 1 and 2 give to what rebuilds them. Plain numbers: nothing is run.
_SCALAR = np.float64(0).__reduce__()[0]
_SCORES: tuple[Any, ...] = (
    *((_SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *(np.dtype, *{type(np.dtype(code)) for code in "?bhilqBHILQefdg"}),
)
# Arguments in a hub folder's config.json that change neither the shape nor the function of the trunk.
_HARMLESS_ARGUMENTS = frozenset({"num_classes", "in_chans", "img_size", "drop_rate", "drop_path_rate"})


def locate_weights(given: str, architectures: Sequence[str]) -> Path:
    """Find the weight file that a path names.

    Args:
        given: a name of ``study.pretrained``; or a ``.safetensors``, ``.pth``, ``.pt`` or ``.bin`` file, one
            without an ending, or a folder as timm's hub has it (``config.json`` beside
            ``model.safetensors`` or ``pytorch_model.bin``).
        architectures: timm names that a folder's ``config.json`` may give.

    Raises:
        UsageError: there is nothing there, or it is for another architecture.
    """
    if package_of(given):
        return _in_package(given, architectures)
    path = Path(given).expanduser()
    if path.is_dir():
        _check_config(path / "config.json", architectures)
        found = [path / name for name in _FOLDER_NAMES if (path / name).is_file()]
        path = found[0] if found else path / _FOLDER_NAMES[0]
    if not path.is_file() or path.suffix not in _SUFFIXES:
        raise UsageError(
            "no file of weights here" if not path.exists() else f"a '{path.suffix}' file is none of weights",
            where=f"pretrained: {path}",
            fix=f"give a file ({', '.join(filter(None, _SUFFIXES))}) or a folder with config.json and "
            f"{_FOLDER_NAMES[0]}",
            code="no-weights",
        )
    return path


def _in_package(given: str, architectures: Sequence[str]) -> Path:
    """The file of an installed package of weights.

    Raises:
        UsageError: the package is not installed, or has weights of another architecture.
    """
    packages = [package_of(given, name) for name in architectures] or [None]
    fitting_one = next((each for each in packages if each and each.architecture in architectures), None)
    if fitting_one is None:
        known = ", ".join(f"timm:{each.architecture} ({name})" for name, each in PACKAGES.items())
        raise UsageError(
            f"there is no package with weights of {' or '.join(architectures) or 'this network'}",
            where=f"pretrained: {given}",
            fix=f"packages have weights of {known}",
            code="weights-mismatch",
        )
    return fitting_one.file()


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict, never running code that a pickle may hold.

    What a training wrote beside and around it is put aside: epoch, scores, optimizer, the names under which
    it stands (``model``, ``state_dict``, …), and the prefix ``module.`` of weights on several devices.

    Raises:
        InputRefused: the file is damaged, or holds no weights, or anything that only running it could read.
    """
    import timm

    known = torch.serialization.get_safe_globals()
    scores = [each for each in _SCORES if each not in known]  # the context forgets what it was given
    try:
        with (
            warnings.catch_warnings(action="ignore"),  # torch's guesses at what damaged bytes may mean
            torch.serialization.safe_globals(scores),
        ):
            found = _unwrapped(timm.models.load_state_dict(str(path)))
    except Exception as error:  # an unpickler on damaged bytes fails in any way there is
        raise _unreadable(path, f"not readable as a state dict: {_first_line(error)}") from error
    if others := [key for key, value in found.items() if not isinstance(value, Tensor)]:
        raise _unreadable(path, f"no state dict: {', '.join(map(str, others[:5]))} are no tensors")
    return as_timm(found)


def _unwrapped(content: Mapping[str, Any]) -> dict[str, Any]:
    """The state dict inside what a training wrote."""
    while name := next((name for name in _WRAPPERS if isinstance(content.get(name), Mapping)), None):
        content = content[name]
    return {key.removeprefix("module."): value for key, value in content.items()}


def _unreadable(path: Path, what: str) -> InputRefused:
    return InputRefused(
        what,
        where=f"pretrained: {path}",
        fix="copy the file again, or save the bare state dict as .safetensors",
        code="weights-unreadable",
    )


@dataclass(frozen=True, slots=True)
class KeyTable:
    """What a published code calls the parts of one of our networks.

    Attributes:
        names: prefixes of its keys and of ours; the longest that fits counts. The first one tells that a
            file is of that code.
        unused: keys of parts that it builds and never calls; they are left out.
    """

    names: Mapping[str, str]
    unused: re.Pattern[str] | None = None

    def fits(self, state: Mapping[str, Tensor]) -> bool:
        """Whether a state dict has the published code's names."""
        return any(key.startswith(next(iter(self.names))) for key in state)

    def translated(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A state dict under our names; keys that the table does not know stay as they are."""
        found = {}
        for key, value in state.items():
            if self.unused is None or not self.unused.match(key):
                theirs = max((name for name in self.names if key.startswith(name)), key=len, default="")
                found[self.names.get(theirs, "") + key.removeprefix(theirs)] = value
        return found


def load_whole(
    model: nn.Module, state: Mapping[str, Tensor], *, heads: re.Pattern[str], where: str, fix: str = ""
) -> None:
    """Fill a model; classifiers of another number of classes are left as drawn, with a warning.

    Args:
        model: to fill.
        state: the weights, under the model's own names.
        heads: keys of what depends on the number of classes.
        where: the source, for errors.
        fix: what to do if the weights do not fit, where more can be said than ``fitting`` does.

    Raises:
        UsageError: keys are missing, left over, or of another shape.
    """
    own = model.state_dict()
    other = [
        key for key in state if heads.match(key) and key in own and state[key].shape[:1] != own[key].shape[:1]
    ]
    if other:
        logger.warning("%s: %s are of other classes, ours start at random", where, ", ".join(other))
    with fitting(where, fix):
        model.load_state_dict({**state, **{key: own[key] for key in other}}, strict=True)


def load_trunk(trunk: nn.Module, state: dict[str, Tensor], *, head: Sequence[str], where: str) -> None:
    """Fill a trunk; every key must fit, and only the head's may be left over.

    Args:
        trunk: the module to fill.
        state: the weights, under the trunk's own names.
        head: prefixes of the old classification head's keys, which are dropped.
        where: the source, for errors.

    Raises:
        UsageError: keys are missing, left over, or of another shape.
    """
    kept = {key: value for key, value in state.items() if not key.startswith(tuple(head))}
    if dropped := sorted(state.keys() - kept.keys()):
        logger.warning("%s: its head (%s) is left out, ours starts at random", where, ", ".join(dropped))
    with fitting(where):
        trunk.load_state_dict(kept, strict=True)


@contextmanager
def fitting(where: str, fix: str = "") -> Iterator[None]:
    """Turn torch's complaint about keys and shapes into a ``UsageError``."""
    try:
        yield
    except (RuntimeError, KeyError) as error:
        raise UsageError(
            f"the weights are not of this network: {_shortened(error)}",
            where=where,
            fix=fix or "give weights of this very architecture, width and depths included, in timm's layout",
            code="weights-mismatch",
        ) from error


@contextmanager
def fetching(name: str) -> Iterator[None]:
    """Turn a failed download of timm's weights ``name`` into a ``UsageError`` with the way out."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise UsageError(
            f"the pretrained weights of {name} could not be fetched: {_first_line(error)}",
            where="pretrained: true",
            fix="fetch its config.json and model.safetensors where there is network and give their folder, "
            "pretrained: <folder>; or start at random, pretrained: false",
            code="weights-not-fetched",
        ) from error


def _check_config(path: Path, architectures: Sequence[str]) -> None:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        architecture, arguments = config["architecture"], config.get("model_args") or {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"no config.json that names an architecture: {_first_line(error)}",
            where=f"pretrained: {path.parent}",
            fix="give the weight file itself",
            code="no-weights",
        ) from error
    changed = sorted(set(arguments) - _HARMLESS_ARGUMENTS)
    if architecture not in architectures or changed:
        what = f"weights of {architecture}" + (f" built with {', '.join(changed)}" if changed else "")
        raise UsageError(
            f"{what} do not fit a model of {' or '.join(architectures)}",
            where=f"pretrained: {path}",
            fix="choose the model that the weights are of",
            code="weights-mismatch",
        )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _shortened(error: Exception, lines: int = 5) -> str:
    text = [line.strip() for line in str(error).splitlines()[1:]] or [_first_line(error)]
    shown = [line if len(line) <= 240 else line[:240] + " …" for line in text[:lines]]
    return "\n  ".join(["", *shown, *([f"… and {len(text) - lines} more"] if len(text) > lines else [])])
