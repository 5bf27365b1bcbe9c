"""A study: every choice of one experiment, in one YAML file, checked as a whole before anything starts.

Importing this module loads neither torch nor Lightning, so that a misspelt key is answered at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationInfo,
    model_validator,
)

from foveate.files import write_atomic
from foveate.study.pretrained import package_of
from foveate.study.sections import (
    AbstainConfig,
    CalibrateConfig,
    EvaluateConfig,
    ExplainConfig,
    LocalizeConfig,
    ProbeConfig,
    TrustConfig,
)
from foveate.study.settings import (
    FORMER,
    AugmentConfig,
    PreprocessConfig,
    Settings,
    SplitConfig,
    TableRules,
)
from foveate.study.starting import batch_for, epochs_for, size_for
from foveate.study.yaml_file import dump_yaml, read_yaml, validated
from foveate.types import Cohort

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


def _from_folder(path: Path, info: ValidationInfo) -> Path:
    """Make a path absolute, starting from the folder of the YAML file (or the working directory)."""
    folder = info.context["folder"] if info.context else Path.cwd()
    return Path(folder, path).absolute()


def _weights(value: bool | str, info: ValidationInfo) -> bool | str:
    if isinstance(value, bool) or package_of(value):
        return value
    return str(_from_folder(Path(value), info))


InFolder = Annotated[Path, AfterValidator(_from_folder)]


class DataConfig(TableRules):
    """Which cases, and how their table is understood: see ``TableRules`` for the keys that are not here.

    Attributes:
        manifest: the CSV that lists them.
        label: column of the class, for multi-class cohorts; None looks for one called ``label``.
        findings: 0/1 columns, for multi-label cohorts; None looks for columns of zeros and ones.
        classes: labels in the order of the scores, for weights that were trained elsewhere; None sorts them.
        views: columns of image paths; None looks for them.
        boxes: CSV of true bounding boxes.
        patient, case: columns that name the patient and the case.
    """

    manifest: InFolder
    label: str | None = None
    findings: list[str] | None = None
    classes: list[str] | None = None
    views: list[str] | None = None
    boxes: InFolder | None = None
    patient: str = "patient_id"
    case: str = "case_id"


class AuditConfig(Settings):
    """What the audit may find without stopping the run.

    Attributes:
        allow: codes of findings to accept, such as ``conflicting-labels``; ``refused-image`` also lets
            the training go on without the images that cannot be read.
    """

    allow: list[str] = Field(default_factory=list)


class ModelConfig(Settings):
    """Which network.

    Attributes:
        name: an entry of ``foveate models``, or ``timm:<name>``.
        pretrained: true takes timm's published weights; a path takes a local file or folder; a name such as
            ``efficientnet_lite0``, or ``installed``, takes those of an installed package (extra ``weights``).
        options: the model's own named options.
    """

    name: str = "dadrn50"
    pretrained: Annotated[bool | str, AfterValidator(_weights)] = False
    options: dict[str, Any] = Field(default_factory=dict)


class TrainConfig(Settings):
    """How the network learns.

    Attributes:
        epochs: passes over the training cases.
        batch_size: cases per step and device.
        optimizer: ``adamw`` or ``sgd`` (with Nesterov-free momentum).
        lr: highest learning rate.
        weight_decay: of the optimizer.
        momentum: of SGD.
        schedule: ``cosine`` falls to zero, ``step`` is multiplied by ``factor`` at each milestone,
            ``constant``.
        warmup_epochs: length of the linear rise at the start; may be a fraction.
        milestones: epochs at which ``step`` falls.
        factor: of each fall of ``step``.
        balance: ``none``; ``weights`` (loss), ``sampler`` (drawing) or ``focal`` (loss) for rare classes.
        monitor: the validation figure that decides which epoch is best; of equal ones the lower validation
            loss.
        ema_decay: the weights that are validated and kept are a mean over epochs, of which this share stays
            with each further epoch; 0 takes the weights of each epoch by itself.
        patience: epochs without a better figure after which training ends; None never ends early.
        precision: ``32``, ``bf16``, or ``auto``: bf16 where the device computes in it, its gradients are
            those of float32, and it is faster.
        accelerator, devices, nodes: as Lightning's; ``torchrun`` and SLURM are recognised.
        plan: ``auto`` races precisions and memory formats for a few steps before the training; ``off`` does
            not, so that nothing depends on the clock. ``foveate plan`` tells of it.
        workers: threads that make coming batches; 0 makes them between the steps, None takes one for a GPU
            and none for a processor.
        checkpoint_every_steps: None saves about once a minute.
        cache_gb: space for prepared images; 0 switches the cache off.
        grad_clip: highest norm of the gradient, or None.
        tensorboard: also write event files (extra ``tensorboard``).
    """

    epochs: Count = 60
    batch_size: Count = 16
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: Positive = 1e-3
    weight_decay: NotNegative = 1e-4
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    warmup_epochs: NotNegative = 0
    milestones: tuple[Count, ...] = ()
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.1
    balance: Literal["none", "weights", "sampler", "focal"] = "none"
    monitor: Literal["balanced_accuracy", "accuracy", "auroc_macro", "val_loss"] = "val_loss"
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.7
    patience: Count | None = None
    precision: Annotated[Literal["auto", "32", "bf16"], BeforeValidator(lambda value: str(value))] = "auto"
    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"] = "auto"
    devices: Count | Literal["auto"] = 1
    nodes: Count = 1
    plan: Literal["auto", "off"] = "auto"
    workers: Annotated[int, Field(ge=0)] | None = None
    checkpoint_every_steps: Count | None = None
    cache_gb: NotNegative = 8
    grad_clip: Positive | None = None
    tensorboard: bool = False

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.schedule == "step" and not self.milestones:
            raise ValueError("schedule: step needs milestones, such as [30, 45]")
        if self.milestones and self.schedule != "step":
            raise ValueError(f"milestones belong to schedule: step, not to {self.schedule}")
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs ({self.warmup_epochs}) must be below epochs ({self.epochs})")
        return self


class Study(Settings):
    """Every choice of one experiment; sections that are left out take their defaults.

    Those of ``augment`` depend on ``train.epochs``: see ``AugmentConfig.for_epochs``.
    """

    name: Annotated[str, Field(min_length=1, pattern=r"^[^/\\]+$")]
    data: DataConfig
    audit: AuditConfig = AuditConfig()
    split: SplitConfig = SplitConfig()
    preprocess: PreprocessConfig = PreprocessConfig()
    augment: AugmentConfig = AugmentConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    explain: ExplainConfig = ExplainConfig()
    localize: LocalizeConfig = LocalizeConfig()
    calibrate: CalibrateConfig = CalibrateConfig()
    abstain: AbstainConfig = AbstainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    trust: TrustConfig = TrustConfig()
    probe: ProbeConfig = ProbeConfig()
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0

    @model_validator(mode="after")
    def _augments_what_is_there(self) -> Self:
        if not self.preprocess.volumes and (self.augment.tilt_degrees or "depth" in self.augment.flip):
            raise ValueError(
                "augment.tilt_degrees and augment.flip: depth are for volumes, and preprocess.size has two "
                "numbers"
            )
        return self

    @model_validator(mode="after")
    def _augments_as_long_as_it_trains(self) -> Self:
        # Past pydantic, which would count it as chosen: written studies and grids follow their own epochs.
        self.__dict__["augment"] = self.augment.for_epochs(self.train.epochs)
        return self

    @model_validator(mode="after")
    def _normalizes_as_its_weights_were_trained(self) -> Self:
        if package := package_of(self.model.pretrained):
            own, chosen = {"mean": package.mean, "std": package.std}, self.preprocess.model_fields_set
            # Past pydantic, as above. Of a copy: the section may be the one that all studies share.
            self.__dict__["preprocess"] = section = self.preprocess.model_copy()
            section.__dict__.update({name: own[name] for name in own if name not in chosen})
        return self

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a study; paths in it start from its own folder.

        Raises:
            UsageError: not readable, not YAML, or not a valid study; all problems are listed at once.
        """
        path = Path(path)
        hint = "make one with `foveate init MANIFEST.csv`"
        return validated(cls, read_yaml(path, "study", hint), path.absolute().parent, str(path), "study")

    @classmethod
    def of_run(cls, folder: Path) -> Self:
        """The study of a run folder; settings that 0.1.0 did not have mean what it did without them.

        Those do not count as chosen. Errors are those of ``load``.
        """
        path = folder / "study.yaml"
        content = read_yaml(path, "study")
        kept = content.get("preprocess") or {}
        if not isinstance(kept, Mapping):
            return cls.load(path)
        content["preprocess"] = {**FORMER, **kept}
        study = validated(cls, content, path.absolute().parent, str(path), "study")
        study.preprocess.model_fields_set.difference_update(FORMER.keys() - kept.keys())
        return study

    @classmethod
    def for_cohort(cls, cohort: Cohort, *, name: str, data: Mapping[str, Any], model: str) -> Self:
        """A study to start from, with the choices that fit the cohort (``study.starting``).

        Args:
            cohort: as read from the manifest.
            name: of the study.
            data: the ``data`` section.
            model: name of the network.
        """
        single = cohort.task == "multiclass"
        section = {key: value for key, value in data.items() if value is not None}
        return cls(
            name=name,
            data=DataConfig.model_validate(section),
            preprocess=PreprocessConfig(size=size_for(cohort)),
            model=ModelConfig(name=model),
            train=TrainConfig(
                epochs=epochs_for(len(cohort.cases)),
                batch_size=batch_for(len(cohort.cases)),
                lr=1e-3,
                balance="weights" if single else "none",
            ),
            seed=0,
        )

    def with_manifest(self, manifest: Path, *, seed: int) -> Self:
        """The same study on other data and with another seed (of the split and of the training)."""
        changed = self.model_dump()
        changed["data"]["manifest"] = manifest
        changed["split"]["seed"] = changed["seed"] = seed
        return type(self).model_validate(changed)

    def dump(self) -> str:
        """The whole study as YAML, every default spelt out and every path absolute.

        What a run of 0.1.0 left unsaid, and means something else today, stays unsaid (see ``of_run``).
        """
        content, usual = self.model_dump(mode="json"), PreprocessConfig()
        for name, value in FORMER.items():
            own = getattr(self.preprocess, name)
            if name not in self.preprocess.model_fields_set and own == value != getattr(usual, name):
                del content["preprocess"][name]
        return dump_yaml(content)

    def write(self, path: Path) -> None:
        """Write only the keys that were chosen, for a person to edit; the rest keep their defaults.

        Files below the folder of the study are named from there, so that the folder can be moved.
        """
        chosen = self.model_dump(mode="json", exclude_unset=True)
        home = path.absolute().parent.resolve()
        for key in ("manifest", "boxes"):
            if (file := chosen["data"].get(key)) and Path(file).is_relative_to(home):
                chosen["data"][key] = Path(file).relative_to(home).as_posix()
        head = "# Keys that are left out have their defaults; study.yaml in the run folder lists them all.\n"
        write_atomic(path, head + dump_yaml(chosen))
