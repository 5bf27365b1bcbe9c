"""YAML files that are settings: read strictly, checked as a whole, every problem with its place."""

from __future__ import annotations

import difflib
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from foveate.errors import UsageError

Checked = TypeVar("Checked", bound=BaseModel)


class _StrictLoader(yaml.SafeLoader):
    """YAML in which a key that stands twice is an error, not a silent last word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                problem = f"the key '{key}' stands twice"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path, kind: str, hint: str = "") -> Any:
    """Read the mapping that a YAML file holds.

    Args:
        path: the file.
        kind: what it is meant to be, such as ``study``.
        hint: how to come by one.

    Raises:
        UsageError: not readable, not YAML, or not a mapping.
    """
    try:
        with path.open(encoding="utf-8-sig") as stream:
            content = yaml.load(stream, Loader=_StrictLoader)
    except OSError as error:
        raise UsageError(
            f"the {kind} cannot be read: {error.strerror}",
            where=str(path),
            fix="give the path of a YAML file",
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"not valid YAML: {error}", where=str(path), code=f"{kind}-invalid") from None
    if not isinstance(content, dict):
        raise UsageError(
            f"a {kind} is a YAML mapping that starts with 'name:'",
            where=str(path),
            fix=hint,
            code=f"{kind}-invalid",
        )
    return content


def validated(model: type[Checked], content: Any, folder: Path, where: str, kind: str) -> Checked:
    """Check settings as a whole; paths in them start from ``folder``.

    Raises:
        UsageError: they are not valid; all problems are listed at once.
    """
    try:
        return model.model_validate(content, context={"folder": folder})
    except ValidationError as error:
        problems = _explain(error, model, kind)
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''} in the {kind}"
        listing = "\n".join(f"  - {line}" for line in problems)
        raise UsageError(
            f"{count}\n{listing}",
            where=where,
            fix="correct these keys and run the command again",
            code=f"{kind}-invalid",
        ) from None


def dump_yaml(content: Mapping[str, Any]) -> str:
    """YAML text: lists of numbers and the like on one line, sections as blocks."""
    return str(
        yaml.safe_dump(content, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100)
    )


def _explain(error: ValidationError, model: type[BaseModel], kind: str) -> list[str]:
    """One line per problem: the key path, what is wrong, and for unknown keys the closest known one."""
    lines: dict[str, str] = {}
    for problem in error.errors():
        path, section = _locate(problem["loc"], model)
        place = ".".join(path) or kind
        if problem["type"] == "extra_forbidden":
            text = f"unknown key{_suggestion(path[-1], list(section.model_fields))}"
        elif problem["type"] == "missing":
            text = "missing"
        else:
            text = f"{problem['msg'].removeprefix('Value error, ')} (got {problem['input']!r})"
        lines[place] = f"{lines[place]}; or {text}" if place in lines else f"{place}: {text}"
    return list(lines.values())


def _locate(loc: tuple[int | str, ...], model: type[BaseModel]) -> tuple[list[str], type[BaseModel]]:
    """The key path as a user writes it, without pydantic's names of union members, and its section."""
    first, rest = (str(loc[0]), loc[1:]) if loc else ("", ())
    annotation = model.model_fields[first].annotation if first in model.model_fields else None
    if isinstance(annotation, type) and issubclass(annotation, BaseModel) and rest:
        path, section = _locate(rest, annotation)
        return [first, *path], section
    if get_origin(annotation) is dict and len(rest) > 1:  # sections by name, such as preprocess.views
        kind = get_args(annotation)[1]
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            path, section = _locate(rest[1:], kind)
            return [first, str(rest[0]), *path], section
    return [first, *(str(part) for part in rest if isinstance(part, int))] if first else [], model


def _suggestion(key: str, known: list[str]) -> str:
    """The closest known key beside an unknown one, or the list of known ones."""
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else f"; known here: {', '.join(known)}"
