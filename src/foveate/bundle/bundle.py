"""A trained model with all that is needed to use it anywhere: ``model.safetensors`` and ``bundle.json``.

No pickle. Labels and preprocessing travel with the weights, and so do salted hashes of the patients it
learned from, so that an evaluation on those same patients can be refused, and what it takes to know its
images again (``data.known``). What is fitted after training joins them: operating points, calibration and the
rule of the prediction sets, all from validation cases, and what images look familiar
(``novelty.safetensors``), from training cases with a threshold from validation cases.
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
from foveate.bundle.familiar import FamiliarImages
from foveate.bundle.novelty import NoveltyScore
from foveate.contract import Classifier
from foveate.data.known import KnownImages
from foveate.data.manifest.identities import alike
from foveate.errors import InputRefused
from foveate.evaluate.probabilities.calibrators import Calibrator
from foveate.evaluate.probabilities.conformal import SetRule
from foveate.evaluate.results.operating_point import OperatingPoint
from foveate.files import replacing, sha256_of, write_json
from foveate.models import build_model
from foveate.prepare.preprocess import Preprocess
from foveate.study.settings import PreprocessConfig
from foveate.types import Task

FORMAT = 1
_WEIGHTS, _NOVELTY, _FACTS = "model.safetensors", "novelty.safetensors", "bundle.json"


@dataclass(frozen=True, slots=True)
class Patients:
    """The patients a model learned from, recognisable but not readable.

    Attributes:
        salt: hex, drawn anew for each bundle.
        hashes: SHA-256 of salt and patient id, for each training and validation patient; also of the key
            under which all spellings of the id are the same, unless ids count as they are written.
        as_written: whether ids that look like two spellings of one (``17`` and ``017``) are two patients.
    """

    salt: str
    hashes: frozenset[str]
    as_written: bool = False

    @classmethod
    def of(cls, patient_ids: Iterable[str], *, as_written: bool = False) -> Patients:
        """Hash patient ids with a fresh salt."""
        salt, names = secrets.token_hex(16), set(patient_ids)
        names |= set() if as_written else {alike(name) for name in names}
        return cls(salt, frozenset(_hash(salt, name) for name in names), as_written)

    def __contains__(self, patient_id: str) -> bool:
        """Whether the model saw this patient, however the id is spelt."""
        return _hash(self.salt, patient_id) in self.hashes or self.by_spelling(patient_id)

    def by_spelling(self, patient_id: str) -> bool:
        """Whether the model saw this patient under an id that is spelt otherwise."""
        if self.as_written or _hash(self.salt, patient_id) in self.hashes:
            return False
        return _hash(self.salt, alike(patient_id)) in self.hashes


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
        thresholds: from which raw probability a finding counts as present (multi-label; else empty).
        weights_sha256: of ``model.safetensors``.
        operating_points: of each class or finding, chosen on validation cases.
        calibration: from logits to probabilities that mean what they say; None before the predict station.
        set_rule: which answers go into the prediction set; None likewise.
        novelty: how unlike the training images an image is; None likewise.
        familiar: what the training images plainly are like; None likewise, and in older bundles.
        images: the images it learned from, recognisable in another cohort; None where that is not known.
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
    operating_points: Mapping[str, OperatingPoint] = field(default_factory=dict)
    calibration: Calibrator | None = None
    set_rule: SetRule | None = None
    novelty: NoveltyScore | None = None
    familiar: FamiliarImages | None = None
    images: KnownImages | None = None

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
        "patients": {
            "salt": bundle.patients.salt,
            "hashes": sorted(bundle.patients.hashes),
            "as_written": bundle.patients.as_written,
        },
        "weights_sha256": sha256_of(weights),
        **_fitted_facts(folder, bundle),
    }
    write_json(folder / _FACTS, facts)


def save_fitted(folder: Path, bundle: Bundle) -> None:
    """Put what was fitted after training into a bundle on disk.

    Args:
        folder: of the bundle; its weights, and all that training knew, stay as they are.
        bundle: the same with thresholds, operating points, calibration, set rule and novelty.
    """
    write_json(folder / _FACTS, _read_facts(folder / _FACTS) | _fitted_facts(folder, bundle))


def save_images(folder: Path, images: KnownImages) -> None:
    """Put the images that a model learned from into its bundle on disk; nothing if none are known."""
    if images.hashes:
        facts = {"fingerprints": images.save(folder)}
        write_json(folder / _FACTS, _read_facts(folder / _FACTS) | facts)


def _fitted_facts(folder: Path, bundle: Bundle) -> dict[str, Any]:
    """What was fitted after training, as plain JSON; the arrays among it are written to a file."""
    return {
        "thresholds": dict(bundle.thresholds),
        "operating_points": {name: point.to_json() for name, point in bundle.operating_points.items()},
        "calibration": bundle.calibration and bundle.calibration.to_json(),
        "conformal": bundle.set_rule and bundle.set_rule.to_json(),
        "novelty": bundle.novelty and bundle.novelty.save(folder / _NOVELTY),
        "familiar": bundle.familiar and bundle.familiar.to_json(),
    }


def load_bundle(folder: str | Path) -> Bundle:
    """Read a bundle, check its weights against their hash, and build the model.

    Nothing of the process is changed: no setting, and no state of random numbers.

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
    preprocess = Preprocess(PreprocessConfig.stored(facts["preprocess"]))
    views, classes = tuple(facts["views"]), tuple(facts["classes"])
    name, options = facts["model"]["name"], facts["model"]["options"]
    with torch.random.fork_rng(
        devices=()
    ):  # first weights are drawn, and the caller's draws stay as they were
        model = build_model(
            name, len(classes), preprocess.input_spec(views), pretrained=False, options=options
        )
    model.load_state_dict(load_file(weights))
    known = facts["patients"]
    patients = Patients(known["salt"], frozenset(known["hashes"]), known.get("as_written", False))
    return Bundle(
        model=model.eval(),
        model_name=name,
        model_options=options,
        preprocess=preprocess,
        views=views,
        task=facts["task"],
        classes=classes,
        patients=patients,
        weights_sha256=facts["weights_sha256"],
        **_read_fitted(folder, facts),
    )


def _read_fitted(folder: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What was fitted after training; older bundles lack some of it."""
    points, calibration = facts.get("operating_points") or {}, facts.get("calibration")
    set_rule, novelty = facts.get("conformal"), facts.get("novelty")
    images, familiar = facts.get("fingerprints"), facts.get("familiar")
    if novelty and not (folder / _NOVELTY).is_file():
        raise InputRefused(
            "the arrays of the novelty score are missing",
            where=str(folder / _NOVELTY),
            fix="copy the bundle again, or run `foveate predict` on its run",
            code="bundle-damaged",
        )
    return {
        "thresholds": facts["thresholds"],
        "operating_points": {name: OperatingPoint(**point) for name, point in points.items()},
        "calibration": calibration and Calibrator.from_json(calibration),
        "set_rule": set_rule and SetRule.from_json(set_rule),
        "novelty": novelty and NoveltyScore.load(folder / _NOVELTY, novelty),
        "familiar": familiar and FamiliarImages.from_json(familiar),
        "images": images and KnownImages.load(folder, images),
    }


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
