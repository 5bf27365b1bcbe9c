"""LCA-DB's paper variant beside the published code: outputs, loss terms and gradients, in both modes."""

from __future__ import annotations

import ast
import os
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from authors_networks import save_checkpoint
from foveate.contract import InputSpec
from foveate.models import build_model
from foveate.models.lca_db.network import LcaDb
from foveate.models.lca_db.objective import LcaOutput, branch_terms
from foveate.models.lca_db.weights import LCA_DB
from foveate.models.objectives import CrossEntropy, FocalCrossEntropy

PHASES = ("t2", "dwi", "in_phase", "out_phase", "c_pre", "c_arterial", "c_delay", "c_venous")
SPEC = InputSpec(PHASES, "3", (16, 128, 128), 1)
LABELS = torch.tensor([3, 6])
TOLERANCE = 1e-5  # of the largest magnitude of an array, as the numbers' description says
GRADIENTS = {
    "conv1_compose.weight": "branches.image.trunk.stem.conv.weight",
    "conv1_patch_com.weight": "branches.patch.trunk.stem.conv.weight",
    "linear1.weight": "attention.image.classifier.weight",
    "linear2.weight": "attention.patch.classifier.weight",
    "bag_classifier.weight": "bag.weight",
}
TERMS = {
    "R_I": "instances_image",
    "R_P": "instances_patch",
    "X_I": "cross_image",
    "X_P": "cross_patch",
    "sim": "similarity",
}


@dataclass(frozen=True)
class Run:
    """One mode of the network on the golden input, after a backward pass of the loss at epoch 10."""

    model: LcaDb
    output: LcaOutput
    terms: dict[str, Tensor]
    golden: dict[str, NDArray[np.float32]]

    def check(self, name: str, found: Tensor) -> None:
        expected = self.golden[name]
        assert found.shape == expected.shape
        difference = np.abs(found.detach().double().numpy() - expected).max()
        assert difference <= TOLERANCE * np.abs(expected).max(), f"{name}: {difference}"


@pytest.fixture(scope="module")
def folder() -> Path:
    beside = Path(__file__).resolve().parents[2] / "shared" / "golden"
    found = Path(os.environ.get("FOVEATE_GOLDEN", beside))
    if not found.is_dir():
        pytest.skip("no folder of golden numbers: set FOVEATE_GOLDEN to one")
    return found


def _authors_state(folder: Path) -> dict[str, Tensor]:
    """The published network's weights, drawn from its keys as the golden numbers' description says."""
    lines = (line.split(" ", 1) for line in (folder / "lca_db_keys.txt").read_text().splitlines())
    return {key: _drawn(key, ast.literal_eval(shape)) for key, shape in lines}


def _drawn(key: str, shape: tuple[int, ...]) -> Tensor:
    chance = np.random.default_rng(zlib.crc32(key.encode()))
    if key.endswith("num_batches_tracked"):
        return torch.tensor(0)
    if key.endswith("running_var") or (len(shape) == 1 and key.endswith("weight")):
        values = chance.uniform(0.5, 1.5, shape)
    elif len(shape) == 1:
        values = chance.normal(0, 0.1, shape)
    else:
        values = chance.normal(0, 1, shape) * np.sqrt(2.0 / np.prod(shape[1:]))
    return torch.from_numpy(values.astype(np.float32))


def _views() -> dict[str, Tensor]:
    x = np.random.default_rng(7).standard_normal((2, 8, 16, 128, 128)).astype(np.float32)
    return {name: torch.from_numpy(x[:, [index]]) for index, name in enumerate(PHASES)}


@pytest.fixture(scope="module", params=["eval", "train"])
def run(request: pytest.FixtureRequest, folder: Path) -> Run:
    model = build_model("lca_db10", 7, SPEC, options={"variant": "paper", "width": 0.125})
    assert isinstance(model, LcaDb)
    model.load_state_dict(LCA_DB.translated(_authors_state(folder)), strict=True)
    model.criterion = CrossEntropy()  # the paper's loss replaces the study's
    output = model.train(request.param == "train")(_views())
    terms = model.objective(output, LABELS, progress=0.1)  # epoch 10 of 100
    terms["total"].backward()
    numbers = np.load(folder / "lca_db_depth10_width0125.npz")
    prefix = f"{request.param}/"
    golden = {key.removeprefix(prefix): numbers[key] for key in numbers.files if key.startswith(prefix)}
    return Run(model, output, terms, golden)


def test_every_key_of_the_published_network_has_one_place(folder: Path) -> None:
    theirs = _authors_state(folder)
    translated = LCA_DB.translated(theirs)
    assert len(translated) == len(theirs)
    own = build_model("lca_db10", 7, SPEC, options={"variant": "paper", "width": 0.125}).state_dict()
    assert translated.keys() == own.keys()
    assert {key: value.shape for key, value in translated.items()} == {k: v.shape for k, v in own.items()}
    assert sum(v.numel() for k, v in theirs.items() if "running" not in k and v.ndim) == 548_725


def test_outputs_are_the_published_ones(run: Run) -> None:
    run.check("logits", run.output.logits)
    for branch in ("image", "patch"):
        run.check(f"z_{branch}", run.output.instances[branch])
        run.check(f"alpha_{branch}", run.output.weights[branch])


def test_loss_terms_are_the_published_ones(run: Run) -> None:
    raw = branch_terms(run.output, LABELS)
    assert raw.keys() == set(TERMS.values())
    for theirs, name in TERMS.items():
        run.check(f"loss_{theirs}", raw[name])
    run.check("loss_bag", FocalCrossEntropy()(run.output.logits, LABELS))
    run.check("loss_bag", run.terms["classification"])
    run.check("loss_total_epoch10", run.terms["total"])


@pytest.mark.parametrize("theirs", GRADIENTS)
def test_gradients_are_the_published_ones(run: Run, theirs: str) -> None:
    gradient = run.model.get_parameter(GRADIENTS[theirs]).grad
    assert gradient is not None
    run.check(f"grad_{theirs}", gradient)


def test_a_loaded_checkpoint_sees_in_our_planes_what_the_published_network_sees_in_its_own(
    folder: Path, tmp_path: Path
) -> None:
    """Its planes are (x, y), ours (y, x), so that tile 4 a + b there is tile 4 b + a here."""
    save_checkpoint(tmp_path / "fold1.pth", _authors_state(folder))
    options = {"variant": "paper", "width": 0.125}
    path = str(tmp_path / "fold1.pth")
    model = build_model("lca_db10", 7, SPEC, pretrained=path, options=options).eval()
    with torch.inference_mode():
        output = model({name: view.mT for name, view in _views().items()})
    golden = np.load(folder / "lca_db_depth10_width0125.npz")
    run = Run(model, output, {}, {key.removeprefix("eval/"): golden[key] for key in golden.files})
    run.check("logits", output.logits)
    for branch in ("image", "patch"):
        for kind, values in (("z", output.instances[branch]), ("alpha", output.weights[branch])):
            run.check(f"{kind}_{branch}", values.unflatten(1, (4, 4)).transpose(1, 2).flatten(1, 2))


def test_no_golden_number_is_left_out(run: Run) -> None:
    used = {"logits", "loss_bag", "loss_total_epoch10"} | {f"loss_{name}" for name in TERMS}
    used |= {f"{kind}_{branch}" for kind in ("z", "alpha") for branch in ("image", "patch")}
    assert run.golden.keys() == used | {f"grad_{name}" for name in GRADIENTS}
