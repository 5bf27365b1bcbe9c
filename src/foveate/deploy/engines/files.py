"""Files on the command line become cases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from foveate.deploy.engines.facts import Facts
from foveate.errors import UsageError
from foveate.types import Case


def image_cases(facts: Facts, images: Sequence[Path]) -> list[Case]:
    """One case for each image, for a model of one view; of an image that is given twice one.

    Raises:
        UsageError: the model has several views.
    """
    if len(facts.views) != 1:
        raise UsageError(
            f"this model has {len(facts.views)} views: {', '.join(facts.views)}",
            fix=f"give one case as --view {facts.views[0]}=PATH --view …, or a manifest",
        )
    view, different = facts.views[0], list(dict.fromkeys(images))
    often = Counter(path.name for path in different)
    names = [path.name if often[path.name] == 1 else str(path) for path in different]
    return [
        Case(case_id=name, patient_id=name, views={view: path})
        for name, path in zip(names, different, strict=True)
    ]


def views_case(facts: Facts, views: Sequence[str]) -> Case:
    """One case of several views.

    Args:
        facts: of the model.
        views: each ``name=path``.

    Raises:
        UsageError: a view is not written so, is unknown to the model, or stands twice.
    """
    given: dict[str, Path] = {}
    for text in views:
        name, sign, path = text.partition("=")
        if not (sign and path) or name not in facts.views or name in given:
            raise UsageError(
                f"'{text}' does not name one more of the model's views",
                where="--view",
                fix=f"write NAME=PATH once for each of: {', '.join(facts.views)}",
            )
        given[name] = Path(path)
    name = " + ".join(path.name for path in given.values())
    return Case(case_id=name, patient_id=name, views=given)
