"""From a study, a cohort and its splits to a bundle: everything around the training loop."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from lightning.fabric import Fabric
from lightning.fabric.utilities.exceptions import MisconfigurationException
from numpy.typing import NDArray
from rich.console import Console

from foveate.bundle.bundle import Bundle, Patients, save_bundle
from foveate.contract import Classifier
from foveate.data.dataset import CacheFill
from foveate.data.manifest.identities import alike
from foveate.device import keep_freed_memory
from foveate.errors import UsageError
from foveate.evaluate.results.run import TrainingFacts
from foveate.evaluate.results.splits import Splits
from foveate.files import default_cache_folder
from foveate.models import build_model, count_classes, make_criterion
from foveate.prepare.preprocess import Preprocess
from foveate.study.settings import PreprocessConfig
from foveate.study.study import Study
from foveate.train.checkpoint import CheckpointFolder, seed_everything
from foveate.train.display import Display
from foveate.train.feed import Device, Feed
from foveate.train.lock import run_lock
from foveate.train.loop import Loop, Watch
from foveate.train.material import TOLERANT, TrainingMaterial, load_material
from foveate.train.normalization import note_normalization
from foveate.train.signals import StopRequest
from foveate.train.tuning.plan import TrainingPlan, settle
from foveate.types import Cohort


@dataclass(frozen=True, slots=True)
class FitResult:
    """How a training ended.

    Attributes:
        monitor: name of the figure that chose the epoch.
        best_epoch: 1-based; its weights are in the bundle.
        best_value: of ``monitor``, on the validation cases.
        epochs: epochs trained, fewer than asked for if it ended early.
        seconds: of training and validation, all starts together.
        filled: how the cases were read, with those that were refused.
        resumed: whether a checkpoint was taken up.
        bundle: the folder with the model.
        computed: precision, threads and what else exact results need, see ``Loop.computed``.
    """

    monitor: str
    best_epoch: int
    best_value: float
    epochs: int
    seconds: float
    filled: CacheFill
    resumed: bool
    bundle: Path
    computed: TrainingFacts


def fit(
    study: Study,
    cohort: Cohort,
    splits: Splits,
    run: Path,
    *,
    fold: int = 0,
    console: Console | None = None,
    resume: bool = True,
    cache: Path | None = None,
    watch: Watch | None = None,
) -> FitResult:
    """Train a study's model, or go on with an interrupted training exactly where it stopped.

    Args:
        study: every choice.
        cohort: the cases.
        splits: which of them are for training and for validation.
        run: folder that gets ``checkpoints/``, ``training.csv`` and ``bundle/``.
        fold: which of the folds.
        console: where progress is shown; None shows nothing.
        resume: False starts anew, and removes the checkpoints of an earlier training.
        cache: folder for prepared images; None takes ``default_cache_folder()``.
        watch: is given the row of every epoch, in the first process; what it raises ends the training.

    Raises:
        UsageError: the study does not fit the cohort, the machine, or the checkpoint that is there;
            or another training is running in the folder.
        InputRefused: some images cannot be used (all are listed).
        RunFailed: the loss is not a number, or a checkpoint could not be written.
        SystemExit: Ctrl-C (130) or SIGTERM (143), after saving; with several devices also (0) in all
            processes but the first, once the training is done.
    """
    fabric = make_fabric(study)
    with run_lock(run) if fabric.is_global_zero else nullcontext():
        fabric.launch()
        display = Display(console if fabric.is_global_zero else None)
        with fabric.rank_zero_first(local=True):
            seed_everything(study.seed)
            model = make_model(study, cohort)
            material = load_material(
                study, cohort, splits.parts(fold), cache, display, tolerant=model.tolerates_missing
            )
        processes = {"processes": fabric.world_size} if fabric.world_size > 1 else {}
        checkpoints = CheckpointFolder(run / "checkpoints", material.identity() | processes, display.say)
        if not resume and fabric.is_global_zero:
            checkpoints.clear()
        fabric.barrier()
        feed = make_feed(material, fabric, model)
        plan = _agree_on_plan(
            study, model, feed, fabric, display, folders=(run, cache or default_cache_folder())
        )
        loop = _make_loop(
            material, model, plan, feed, fabric, checkpoints, display=display, run=run, watch=watch
        )
        resumed = loop.resume()
        with StopRequest() as stop:
            loop.run(stop)
            if fabric.is_global_zero:
                save_bundle(run / "bundle", _bundle(material, loop.best_model()))
            fabric.barrier()
        if stop.exit_code or not fabric.is_global_zero:  # what follows a training is for one process to do
            raise SystemExit(stop.exit_code or 0)
        return _result(loop, material, resumed, run / "bundle")


def make_fabric(study: Study) -> Fabric:
    """The devices, as Lightning knows them; the precision of a step is the plan's.

    On processors the memory of one step is kept for the next, unless volumes need all there is.

    Raises:
        UsageError: this machine has no such devices.
    """
    config = study.train
    for name in ("lightning.fabric", "lightning.pytorch"):  # they announce the precision, among others
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        fabric = Fabric(accelerator=config.accelerator, devices=config.devices, num_nodes=config.nodes)
    except (MisconfigurationException, RuntimeError, ValueError) as error:
        raise UsageError(
            f"this machine has no such devices: {error}",
            where="train.accelerator, train.devices",
            fix="set accelerator: auto and devices: 1; `foveate doctor` says what is there",
        ) from error
    if fabric.device.type == "cuda" and config.precision != "32":
        torch.set_float32_matmul_precision("high")  # TF32 for what bfloat16 leaves in float32
    if fabric.device.type == "cpu" and not study.preprocess.volumes:
        keep_freed_memory()
    return fabric


def make_model(study: Study, cohort: Cohort) -> Classifier:
    """The network.

    Raises:
        UsageError: it does not take what the study feeds it, or could not do without the views that the
            study withholds.
    """
    config = study.model
    note_normalization(study, cohort.view_names)
    model = build_model(
        config.name,
        len(cohort.classes),
        Preprocess(study.preprocess).input_spec(cohort.view_names),
        pretrained=config.pretrained,
        options=config.options,
    )
    if study.augment.drop_views and len(cohort.view_names) > 1 and not model.tolerates_missing:
        raise UsageError(
            f"views are withheld in training, but {config.name} of {len(cohort.view_names)} views cannot "
            "do without any",
            where="augment.drop_views",
            fix="set it to 0, or choose a model of several views that tolerates missing ones, such as "
            + " or ".join(TOLERANT[study.preprocess.volumes]),
        )
    return model


def make_feed(
    material: TrainingMaterial, fabric: Fabric, model: Classifier, truth: NDArray[np.float64] | None = None
) -> Feed:
    """The batches; the model gets the classification loss that the study chose.

    Args:
        material: what it learns from.
        fabric: which devices.
        model: that will be trained.
        truth: ``(N, K)`` by which rare classes are known, if not that of the material.
    """
    study, task = material.study, material.cohort.task
    counts = count_classes(task, material.train.truth if truth is None else truth)
    balance = study.train.balance
    model.criterion = make_criterion(
        task, class_counts=counts, balance="none" if balance == "sampler" else balance
    )
    model.learn_counts(task, counts)
    device = Device(fabric.device, fabric.global_rank, fabric.world_size)
    return Feed(study, material.train, material.val, material.preprocess, device)


def _agree_on_plan(
    study: Study,
    model: Classifier,
    feed: Feed,
    fabric: Fabric,
    display: Display,
    *,
    folders: tuple[Path, Path],
) -> TrainingPlan:
    """The first process settles how steps are computed; all follow it."""
    plan: TrainingPlan | None = None
    if fabric.is_global_zero:
        run, cache = folders
        plan = settle(study, model, feed, fabric.device, run=run, cache=cache)
        display.say(plan.words())
    agreed: TrainingPlan = cast(TrainingPlan, fabric.broadcast(plan))
    return agreed


def _make_loop(
    material: TrainingMaterial,
    model: Classifier,
    plan: TrainingPlan,
    feed: Feed,
    fabric: Fabric,
    checkpoints: CheckpointFolder,
    *,
    display: Display,
    run: Path,
    watch: Watch | None,
) -> Loop:
    return Loop(
        material.study,
        material.cohort.task,
        fabric=fabric,
        model=model,
        plan=plan,
        feed=feed,
        checkpoints=checkpoints,
        display=display,
        folder=run,
        watch=watch,
    )


def _bundle(material: TrainingMaterial, model: Classifier) -> Bundle:
    study, cohort = material.study, material.cohort
    return Bundle(
        model=model,
        model_name=study.model.name,
        model_options=study.model.options,
        preprocess=material.preprocess,
        views=cohort.view_names,
        task=cohort.task,
        classes=cohort.classes,
        patients=Patients.of((case.patient_id for case in material.cases), as_written=_as_written(material)),
    )


def _as_written(material: TrainingMaterial) -> bool:
    """Whether patients of the cohort have names that look like two spellings of one, and are two."""
    names = {case.patient_id for case in material.cohort.cases}
    return material.study.data.ids == "as-written" or len({alike(name) for name in names}) < len(names)


def _result(loop: Loop, material: TrainingMaterial, resumed: bool, bundle: Path) -> FitResult:
    state = loop.state
    return FitResult(
        monitor=material.study.train.monitor,
        best_epoch=state.best_epoch,
        best_value=float("nan") if state.best_value is None else state.best_value,
        epochs=state.epoch,
        seconds=sum(float(row["seconds"] or 0) for row in state.rows),
        filled=material.filled,
        resumed=resumed,
        bundle=bundle,
        computed=loop.computed().model_copy(update=_common(material.preprocess.config)),
    )


def _common(config: PreprocessConfig) -> dict[str, object]:
    """What all images were brought to, as ``TrainingFacts`` has it."""
    return {"orientation": config.orientation, "spacing": config.spacing or ()}
