"""A search space: which keys of a study may take which values. Importing this loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from foveate.errors import UsageError
from foveate.study.settings import Settings
from foveate.study.study import Study
from foveate.study.yaml_file import read_yaml, validated

_SECTIONS = ("preprocess", "augment", "model", "train")
#: They decide what is compared, or on how many devices, and are the same for all trials.
_FIXED = {"train.monitor", "train.devices", "train.nodes"}


class Parameter(Settings):
    """What one key may be: one of some choices, or a number within bounds.

    Attributes:
        choices: values as they would stand in a study, whole sections included.
        low, high: bounds, both within; whole numbers if both are.
        step: distance of the numbers to be tried, from ``low`` on.
        log: whether orders of magnitude count alike, as for a learning rate.
    """

    choices: Annotated[tuple[Any, ...], Field(min_length=2)] | None = None
    low: int | float | None = None
    high: int | float | None = None
    step: Annotated[int | float, Field(gt=0)] | None = None
    log: bool = False

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        bounds = (self.low, self.high)
        if (self.choices is None) == (None in bounds) or (
            self.choices is not None and bounds != (None, None)
        ):
            raise ValueError("give either choices, or both low and high")
        if self.choices is not None:
            if self.step is not None or self.log:
                raise ValueError("step and log belong to low and high, not to choices")
            return self
        if self.low is None or self.high is None or not self.low < self.high:
            raise ValueError(f"low must be below high, got {self.low} and {self.high}")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("log needs a low above 0, and no step")
        if self.whole and self.step is not None and not isinstance(self.step, int):
            raise ValueError(f"whole numbers need a whole step, not {self.step}")
        return self

    @property
    def whole(self) -> bool:
        """Whether whole numbers are meant."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def examples(self) -> tuple[Any, ...]:
        """Every choice, or the two bounds."""
        return self.choices if self.choices is not None else (self.low, self.high)


class SearchSpace(Settings):
    """A search: what may change, and how it is looked for.

    Attributes:
        parameters: by the key of the study (``train.lr``), or by a whole section (``model``).
        trials: how many settings are tried.
        sampler: ``tpe`` learns from the trials before; ``random`` does not.
        prune: end trials early that promise little: ``median`` (below the median of the others at the same
            epoch, after a quarter of the epochs), ``halving`` (the better quarter goes on, repeatedly), or
            ``none``.
    """

    parameters: Annotated[dict[str, Parameter], Field(min_length=1)]
    trials: Annotated[int, Field(ge=1)] = 30
    sampler: Literal["tpe", "random"] = "tpe"
    prune: Literal["median", "halving", "none"] = "median"

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a search space.

        Raises:
            UsageError: not readable, not YAML, or not valid; all problems are listed at once.
        """
        content = read_yaml(path, "search space", "start it with 'parameters:'")
        return validated(cls, content, path.absolute().parent, str(path), "search space")

    def check(self, study: Study) -> None:
        """Find out now which values a study would not take.

        Raises:
            UsageError: a key is none that may be searched, or a value is not valid on its own; all are
                listed at once.
        """
        problems = []
        for key, parameter in self.parameters.items():
            section = key.partition(".")[0]
            if section not in _SECTIONS or key in _FIXED:
                searched = ", ".join(_SECTIONS)
                problems.append(f"{key} is the same for all trials; keys of {searched} may be searched")
                continue
            for value in parameter.examples():
                try:
                    chosen = apply(study, {key: value})
                except UsageError as error:
                    problems.append(f"{key} = {value}: {' '.join(error.what.split())}")
                else:
                    if (chosen.train.monitor, chosen.train.devices) != (
                        study.train.monitor,
                        study.train.devices,
                    ):
                        problems.append(f"{key} = {value} changes what is monitored, or where it is trained")
        if problems:
            raise UsageError(
                "this space does not fit the study\n" + "\n".join(f"  - {line}" for line in problems),
                where="search space",
                fix="correct these and run the command again",
                code="search-space-invalid",
            )


def apply(study: Study, values: Mapping[str, Any]) -> Study:
    """A study with other values.

    Args:
        study: the base.
        values: by dotted key; a whole section replaces the base's.

    Raises:
        UsageError: the values are not valid, or not together.
    """
    content = study.model_dump(mode="json", exclude_unset=True)
    for key, value in values.items():
        *sections, name = key.split(".")
        place = content
        for section in sections:
            place[section] = dict(place.get(section) or {})
            place = place[section]
        place[name] = value
    return validated(Study, content, Path.cwd(), "trial", "study")
