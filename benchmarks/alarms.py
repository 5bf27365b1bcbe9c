"""How often the first page warns of nothing, and how often it misses what was planted.

    python benchmarks/alarms.py [--seeds 20] [--page docs/trust.md]

Situations of ``tests/test_situations.py`` on cohorts drawn anew with every seed: networks made by hand, whose
fault is known, go through audit, prediction, evaluation and probes. A false alarm is a caution that the
situation does not allow, a miss one that it demands and that is not there.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from sheet import Sheet, add_page

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from test_situations import SITUATIONS, cautions_of

DRAWN = (
    "a good honest model",
    "a good honest model, no masks",
    "a scanner that is not",
    "a marker in a corner",
    "the same marker, not read",
    "texture around the lesion",
    "nothing but the lesion's area",
    "nothing but the lesion's position",
    "padding of files less high",
    "sizes of files tell, the network guesses",
    "a scanner that is the label",
    "a scanner that often is the label",
)


def outcomes(name: str, seeds: int) -> tuple[list[set[str]], list[set[str]]]:
    """By seed the cautions that were there and should not have been, and those that were missed."""
    situation, false, missed = SITUATIONS[name], [], []
    for seed in range(100, 100 + seeds):
        with (
            tempfile.TemporaryDirectory() as folder,
            pytest.MonkeyPatch.context() as patch,
            contextlib.redirect_stdout(io.StringIO()),
        ):
            found = set(cautions_of(Path(folder) / "cohort", situation, patch, seed))
        false.append(found - {*situation.must, *situation.may})
        missed.append(set(situation.must) - found)
    return false, missed


def row(name: str, false: Sequence[set[str]], missed: Sequence[set[str]]) -> tuple[str, ...]:
    """A line of the table."""
    must = SITUATIONS[name].must
    told = ", ".join(f"`{code}`" for code in sorted(set().union(*false)))
    return (
        name,
        ", ".join(f"`{code}`" for code in must) or "nothing",
        f"{sum(map(bool, missed))} of {len(missed)}" if must else "–",
        f"{sum(map(bool, false))} of {len(false)}" + (f" ({told})" if told else ""),
    )


def main() -> None:
    """Draw, ask, and count."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=20, help="cohorts of each situation")
    parser.add_argument("--only", nargs="*", default=DRAWN, help="situations")
    add_page(parser)
    given = parser.parse_args()
    sheet, rows, false, missed = Sheet("alarms"), [], 0, 0
    for name in given.only:
        wrong, lacking = outcomes(name, given.seeds)
        false, missed = false + sum(map(bool, wrong)), missed + sum(map(bool, lacking))
        rows.append(row(name, wrong, lacking))
        print(rows[-1], flush=True)
    sheet.table(("situation", "must be said", "missed", "false alarms"), rows)
    asked = given.seeds * len(given.only)
    planted = given.seeds * sum(bool(SITUATIONS[name].must) for name in given.only)
    sheet.say(
        f"In all {missed} of {planted} cohorts with something planted were missed, and {false} of {asked} "
        "had a false alarm."
    )
    sheet.write(given.page)


if __name__ == "__main__":
    main()
