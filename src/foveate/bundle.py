"""A trained model with all that is needed to use it anywhere: ``model.safetensors`` and ``bundle.json``.

No pickle. Labels, thresholds and preprocessing travel with the weights, and so do salted hashes of the
patients it learned from, so that an evaluation on those same patients can be refused.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file

from foveate import __version__
from foveate.contract import Classifier
from foveate.errors import InputRefused
from foveate.files import replacing, sha256_of, write_json
from foveate.models import build_model
from foveate.preprocess import Preprocess
from foveate.settings import PreprocessConfig
from foveate.types import Task

FORMAT = 1
_WEIGHTS, _FACTS = "model.safetensors", "bundle.json"


@dataclass(frozen=True, slots=True)
class Patients:
    """The patients a model learned from, recognisable but not readable.

    Attributes:
        salt: hex, drawn anew for each bundle.
        hashes: SHA-256 of salt and patient id, for each training and validation patient.
    """

    salt: str
    hashes: frozenset[str]

    @classmethod
    def of(cls, patient_ids: Iterable[str]) -> Patients:
        """Hash patient ids with a fresh salt."""
        salt = secrets.token_hex(16)
        return cls(salt, frozenset(_hash(salt, patient) for patient in patient_ids))

    def __contains__(self, patient_id: str) -> bool:
        """Whether the model saw this patient."""
        return _hash(self.salt, patient_id) in self.hashes


@dataclass(frozen=True, slots=True)
class Bundle:
    """A model ready for use, in evaluation mode.

    Attributes:
        model: the network with its weights.
        model_name: its entry in the ``MODELS`` table.
        model_options: the named options it was built with.
        preprocess: the same object that training used.
        views: names of its inputs.
        task: multi-class or multi-label.
        classes: names of its outputs, in order.
        patients: whom it learned from.
        thresholds: operating point of each finding (multi-label), chosen on validation cases.
        weights_sha256: of ``model.safetensors``.
    """

    model: Classifier
    model_name: str
    model_options: Mapping[str, Any]
    preprocess: Preprocess
    views: tuple[str, ...]
    task: Task
    classes: tuple[str, ...]
    patients: Patients
    thresholds: Mapping[str, float] = field(default_factory=dict)
    weights_sha256: str = ""

    @torch.inference_mode()
    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """``(B, K)`` logits → softmax over classes, or a sigmoid per finding, in float64."""
        wide = logits.double()
        return wide.softmax(dim=1) if self.task == "multiclass" else wide.sigmoid()


def save_bundle(folder: Path, bundle: Bundle) -> None:
    """Write a bundle; ``bundle.json`` comes last and holds the hash of the weights.

    Args:
        folder: made if absent; an older bundle in it is replaced.
        bundle: what to write.
    """
    weights = folder / _WEIGHTS
    state = {name: tensor.contiguous() for name, tensor in bundle.model.state_dict().items()}
    with replacing(weights) as temporary:
        save_file(state, temporary)
    facts = {
        "format": FORMAT,
        "foveate": __version__,
        "task": bundle.task,
        "classes": list(bundle.classes),
        "views": list(bundle.views),
        "model": {"name": bundle.model_name, "options": dict(bundle.model_options)},
        "preprocess": bundle.preprocess.config.model_dump(mode="json"),
        "thresholds": dict(bundle.thresholds),
        "temperature": None,
        "patients": {"salt": bundle.patients.salt, "hashes": sorted(bundle.patients.hashes)},
        "weights_sha256": sha256_of(weights),
    }
    write_json(folder / _FACTS, facts)


def save_thresholds(folder: Path, thresholds: Mapping[str, float]) -> None:
    """Put the operating points of the findings into a bundle; its weights stay as they are."""
    write_json(folder / _FACTS, _read_facts(folder / _FACTS) | {"thresholds": dict(thresholds)})


def load_bundle(folder: str | Path) -> Bundle:
    """Read a bundle, check its weights against their hash, and build the model.

    Args:
        folder: a bundle, or a run folder that holds one under ``bundle/``.

    Raises:
        InputRefused: a file is missing, damaged, or of a newer format.
    """
    folder = Path(folder)
    if not (folder / _FACTS).is_file() and (folder / "bundle" / _FACTS).is_file():
        folder = folder / "bundle"
    facts = _read_facts(folder / _FACTS)
    weights = folder / _WEIGHTS
    if not weights.is_file() or sha256_of(weights) != facts["weights_sha256"]:
        raise InputRefused(
            "the weights are missing or are not those that bundle.json names",
            where=str(weights),
            fix="copy the bundle again, or resume the training that wrote it",
            code="bundle-damaged",
        )
    preprocess = Preprocess(PreprocessConfig.model_validate(facts["preprocess"]))
    views, classes = tuple(facts["views"]), tuple(facts["classes"])
    name, options = facts["model"]["name"], facts["model"]["options"]
    model = build_model(name, len(classes), preprocess.input_spec(views), pretrained=False, options=options)
    model.load_state_dict(load_file(weights))
    patients = Patients(facts["patients"]["salt"], frozenset(facts["patients"]["hashes"]))
    return Bundle(
        model=model.eval(),
        model_name=name,
        model_options=options,
        preprocess=preprocess,
        views=views,
        task=facts["task"],
        classes=classes,
        patients=patients,
        thresholds=facts["thresholds"],
        weights_sha256=facts["weights_sha256"],
    )


def _read_facts(path: Path) -> dict[str, Any]:
    try:
        facts = cast(dict[str, Any], json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise InputRefused(
            "there is no bundle here",
            where=str(path),
            fix="give a run folder after `foveate train`",
            code="no-bundle",
        ) from None
    except ValueError as error:
        raise InputRefused(
            f"not readable as JSON: {error}", where=str(path), code="bundle-damaged"
        ) from error
    if facts.get("format") != FORMAT:
        raise InputRefused(
            f"bundle format {facts.get('format')} is not {FORMAT}",
            where=str(path),
            fix="update foveate",
            code="bundle-format",
        )
    return facts


def _hash(salt: str, patient_id: str) -> str:
    return hashlib.sha256(f"{salt}:{patient_id}".encode()).hexdigest()
