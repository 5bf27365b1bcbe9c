"""A grid: one base study and its variants, to be trained under one protocol and compared.

Importing this module loads no torch, so that a misspelt key is answered at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from foveate.errors import UsageError
from foveate.study.settings import Settings
from foveate.study.study import InFolder, Study
from foveate.study.yaml_file import read_yaml, validated

Label = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._+=-]*$")]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Explain = Literal["auto", "always", "never"]
_SHARED = ("split", "audit", "evaluate")  # sections that belong to the protocol, as data does but for views


class GridConfig(Settings):
    """A grid file.

    Attributes:
        name: of the comparison.
        base: path of a study, or a study in place.
        variants: by label, what each changes in the base: sections and keys as in a study. A variant that
            names a model starts from no options; otherwise keys are merged into the base's.
        reference: the label that the others are paired with; None takes the first.
        seeds: of the trainings; one run of each variant for each.
        resplit: whether each seed also draws a split of its own, the same for all variants.
        without: views; every run is also tested with each of them withheld.
        explain: whether heat maps are made and tested: ``auto`` does where the manifest has true masks or
            boxes.
        published: ``cards`` takes the figures of the model cards; ``none``; or figures by label, each with a
            text under ``data`` that says what they were measured on.
    """

    name: Label
    base: InFolder | dict[str, Any]
    variants: Annotated[dict[Label, dict[str, Any]], Field(min_length=1)]
    reference: str | None = None
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0, 1, 2)
    resplit: bool = False
    without: tuple[str, ...] = ()
    explain: Explain = "auto"
    published: Literal["cards", "none"] | dict[str, dict[str, float | str]] = "cards"

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        known = ", ".join(self.variants)
        if lost := [label for label, changes in self.variants.items() if {"name", "seed"} & set(changes)]:
            raise ValueError(f"name and seed are the grid's to set, not those of {', '.join(lost)}")
        if self.reference is not None and self.reference not in self.variants:
            raise ValueError(f"reference '{self.reference}' is none of the variants ({known})")
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"a seed stands twice in {list(self.seeds)}")
        if isinstance(self.published, dict):
            if lost := [label for label in self.published if label not in self.variants]:
                raise ValueError(f"published names {', '.join(lost)}, none of the variants ({known})")
            if bare := [
                label for label, row in self.published.items() if not isinstance(row.get("data"), str)
            ]:
                raise ValueError(f"published: say under 'data' what {', '.join(bare)} was measured on")
        return self


class Training(NamedTuple):
    """One of the trainings of every variant.

    Attributes:
        name: what tells it from the others: its seed, or ``"0, fold 3"`` where there are folds.
        seed: of the training.
        fold: that it is tested on, 0-based; None without folds.
    """

    name: int | str
    seed: int
    fold: int | None

    @property
    def folder(self) -> str:
        """Name of its run's folder."""
        return f"seed{self.seed}" if self.fold is None else f"seed{self.seed}-fold{self.fold}"


@dataclass(frozen=True)
class GridPlan:
    """What is to be trained and compared.

    Attributes:
        name: of the comparison.
        variants: by label, the study of each.
        reference: the label that the others are paired with.
        seeds, resplit, without, explain, published: as in ``GridConfig``.
    """

    name: str
    variants: Mapping[str, Study]
    reference: str
    seeds: tuple[int, ...]
    resplit: bool = False
    without: tuple[str, ...] = ()
    explain: Explain = "auto"
    published: str | Mapping[str, Mapping[str, float | str]] = "cards"

    @classmethod
    def of_grid(cls, path: Path) -> GridPlan:
        """Read a grid file; paths in it start from its own folder.

        Raises:
            UsageError: the grid, its base or a variant is not valid, or a variant leaves the protocol; all
                problems are listed at once.
        """
        folder = path.absolute().parent
        grid = validated(GridConfig, read_yaml(path, "grid"), folder, str(path), "grid")
        base = (
            Study.load(grid.base)
            if isinstance(grid.base, Path)
            else validated(Study, grid.base, folder, f"{path}, base", "study")
        )
        problems: list[str] = []
        variants: dict[str, Study] = {}
        for label, changes in grid.variants.items():
            try:
                content = _merged(base.model_dump(mode="json", exclude_unset=True), changes)
                variants[label] = validated(Study, content, folder, f"variant {label}", "study")
            except UsageError as error:
                problems.append(f"variant {label}: {error.what}")
        if problems:
            raise _refused(problems, str(path))
        plan = cls(
            grid.name, variants, grid.reference or next(iter(variants)), grid.seeds, grid.resplit,
            grid.without, grid.explain, grid.published,
        )  # fmt: skip
        plan.check_protocol(str(path))
        return plan

    @classmethod
    def of_studies(cls, paths: Sequence[Path]) -> GridPlan:
        """Compare whole studies, each a variant with its study's name; the first is the reference.

        One study alone is trained on each of its splits with its own seed, or over three seeds if it has
        but one, and its means are told.

        Raises:
            UsageError: two have one name, or they differ in data, split, audit or evaluation; all problems
                are listed at once.
        """
        studies = [Study.load(path) for path in paths]
        names = [study.name for study in studies]
        if doubled := sorted({name for name in names if names.count(name) > 1}):
            raise _refused([f"two studies are called {name}" for name in doubled], "studies")
        name = "comparison" if len(names) > 1 else names[0]
        one = len(studies) == 1 and studies[0].split.rounds is not None
        seeds = (studies[0].seed,) if one else (0, 1, 2)
        plan = cls(name, dict(zip(names, studies, strict=True)), names[0], seeds)
        plan.check_protocol("studies")
        return plan

    @property
    def base(self) -> Study:
        """The study of the reference, from which the protocol is taken."""
        return self.variants[self.reference]

    def check_protocol(self, where: str) -> None:
        """Refuse variants that are not of one manifest, one split and one way to evaluate.

        Raises:
            UsageError: some are not; all differences are listed.
        """
        problems = [
            f"{label} differs from {self.reference} in {line}"
            for label, study in self.variants.items()
            for line in differences(study, self.base)
            if line.partition(".")[0] in ("data", *_SHARED) and not line.startswith("data.views:")
        ]
        if self.resplit and (columns := self.base.split.columns):
            problems.append(f"resplit cannot draw anew what the manifest says ({', '.join(columns)})")
        if problems:
            raise _refused(problems, where, "a comparison needs one manifest, one split and one evaluation")

    def changed(
        self,
        *,
        reference: str | None = None,
        seeds: tuple[int, ...] | None = None,
        without: tuple[str, ...] | None = None,
        resplit: bool | None = None,
    ) -> GridPlan:
        """The same plan with what the command line says otherwise.

        Raises:
            UsageError: it does not fit the studies.
        """
        plan = replace(
            self,
            reference=reference or self.reference,
            seeds=seeds or self.seeds,
            without=self.without if without is None else without,
            resplit=self.resplit if resplit is None else resplit,
        )
        plan.check_protocol("foveate compare")
        return plan

    def allowing(self, codes: Sequence[str]) -> GridPlan:
        """The same plan, accepting these audit findings as well."""
        audit = self.base.audit.model_copy(update={"allow": sorted({*self.base.audit.allow, *codes})})
        variants = {
            label: study.model_copy(update={"audit": audit}) for label, study in self.variants.items()
        }
        return replace(self, variants=variants)

    def changes(self, label: str) -> list[str]:
        """What a variant changes besides the model, a line each: ``train.lr: 0.001 → 0.0001``."""
        lines = differences(self.variants[label], self.base)
        return [line for line in lines if line.partition(".")[0] != "model"]

    def split_seed(self, seed: int) -> int:
        """Seed of the split that a run with this training seed uses."""
        return seed if self.resplit else self.base.split.seed

    @property
    def trainings(self) -> list[Training]:
        """Those of each variant: one a seed, or one a fold of each seed where there are several splits."""
        if self.base.split.rounds is None:
            return [Training(seed, seed, None) for seed in self.seeds]
        folds = range(self.base.split.rounds)
        return [Training(f"{seed}, fold {fold}", seed, fold) for seed in self.seeds for fold in folds]

    def study(self, label: str, training: Training) -> Study:
        """The study of one run."""
        name, fold = f"{self.name} {label} {training.seed}", training.fold
        if fold is None:
            return self._seeded(self.variants[label], name, training.seed)
        study = self._seeded(self.variants[label], f"{name} fold {fold}", training.seed)
        return study.model_copy(update={"split": study.split.model_copy(update={"fold": fold})})

    def split_study(self, seed: int) -> Study:
        """The study that stands for the split of a seed; the same for all seeds unless ``resplit``."""
        return self._seeded(self.base, f"{self.name} split", self.split_seed(seed))

    def _seeded(self, study: Study, name: str, seed: int) -> Study:
        split = study.split.model_copy(update={"seed": self.split_seed(seed)})
        return study.model_copy(update={"name": name, "seed": seed, "split": split})


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Keys of a variant over those of its base; a named model starts from no options."""
    found = {**base}
    for key, value in changes.items():
        below = found.get(key)
        if key == "model" and isinstance(value, Mapping) and isinstance(below, Mapping) and "name" in value:
            below = {name: kept for name, kept in below.items() if name != "options"}
        both = isinstance(value, Mapping) and isinstance(below, Mapping)
        found[key] = _merged(below, value) if both else value  # type: ignore[arg-type]
    return found


def differences(study: Study, base: Study) -> list[str]:
    """Keys whose values differ, with both values; names and seeds aside."""
    one, other = (_flat(item.model_dump(mode="json", exclude={"name", "seed"})) for item in (base, study))
    return [
        f"{key}: {one.get(key)} → {other.get(key)}"
        for key in [*one, *(key for key in other if key not in one)]
        if one.get(key) != other.get(key)
    ]


def _flat(content: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in content.items():
        found |= (
            _flat(value, f"{above}{key}.")
            if isinstance(value, Mapping) and value
            else {f"{above}{key}": value}
        )
    return found


def _refused(problems: Sequence[str], where: str, why: str = "") -> UsageError:
    listing = "\n".join(f"  - {line}" for line in problems)
    count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
    return UsageError(
        f"{count}{f': {why}' if why else ''}\n{listing}",
        where=where,
        fix="correct these and run the command again",
        code="not-comparable" if why else "grid-invalid",
    )
