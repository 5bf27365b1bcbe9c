"""The worked example of docs/compare.md, run as it stands."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import numpy as np

from foveate.evaluate.comparing.hypothesis import mcnemar

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "compare.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    return str(found)


def test_the_published_cervical_comparison_is_not_distinguishable() -> None:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(block("python"), "docs/compare.md", "exec"), {})
    assert printed.getvalue() == block("text")
    assert (round(100 * 92 / 101, 2), round(100 * 90 / 101, 2)) == (91.09, 89.11)  # the published figures
    # Whatever the split, it is at least as undecided as the most favourable one.
    for only_plain in range(10):
        first = np.arange(101) < 92
        second = (np.arange(101) >= only_plain + 2) & (np.arange(101) < 92 + only_plain)
        assert (first.sum(), second.sum()) == (92, 90)
        assert mcnemar(first, second).p >= 0.5


def test_the_lead_that_would_have_been_needed() -> None:
    leads = {lead: mcnemar(np.arange(101) < 90 + lead, np.arange(101) < 90).p for lead in (5, 6)}
    assert leads[6] < 0.05 < leads[5]
