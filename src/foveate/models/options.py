"""Named options of a study file become arguments of a function, checked by its signature."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import ConfigDict, ValidationError, validate_call

from foveate.errors import UsageError

T = TypeVar("T")


def call_with_options(
    function: Callable[..., T],
    arguments: tuple[Any, ...],
    options: Mapping[str, Any],
    *,
    name: str,
    where: str,
    fixed: Mapping[str, Any] | None = None,
) -> T:
    """Call a function whose keyword-only arguments are the options.

    Args:
        function: types of its keyword-only arguments are checked, and may be pydantic's.
        arguments: the positional ones.
        options: as given by a user.
        name: what the options are of, for errors.
        where: in the study file, for errors.
        fixed: keyword-only arguments that are no options.

    Raises:
        UsageError: unknown option, one without which it cannot do, or a value that it does not take.
    """
    fixed = fixed or {}
    known = inspect.signature(function).parameters.values()
    allowed = [each.name for each in known if each.kind is each.KEYWORD_ONLY and each.name not in fixed]
    for key in options:
        if key not in allowed:
            close = difflib.get_close_matches(key, allowed, n=1)
            raise UsageError(
                f"{name} has no option '{key}'" + (f", did you mean '{close[0]}'?" if close else ""),
                where=where,
                fix=f"its options are: {', '.join(allowed)}" if allowed else "leave it out",
                code="unknown-option",
            )
    checked = validate_call(config=ConfigDict(arbitrary_types_allowed=True))(function)
    try:
        return checked(*arguments, **fixed, **options)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise UsageError(f"{name} does not take this: {problems}", where=where, code="bad-option") from error
