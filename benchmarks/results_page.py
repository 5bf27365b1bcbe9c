"""Write docs/results.md from the comparisons in a work folder.

    python benchmarks/results_page.py --work results > docs/results.md

Each table is what ``foveate compare`` left in ``WORK/<name>/comparison.json``; a comparison that is not there
is left out, and named on standard error.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FIGURES = {
    "auroc_macro": "Macro AUROC",
    "balanced_accuracy": "Balanced accuracy",
    "pointing_game": "Pointing game",
    "iou": "Box IoU",
}
PAIRED = ("auroc_macro", "balanced_accuracy", "pointing_game")
INTRODUCTION = """# Results

What was measured with this version, on two processor cores, from random weights and with budgets of
minutes: the tables show that each system trains, and what its parts do here. **They are no evidence of what
a system can do with its own data, pretrained weights and a full budget.** Published figures are on the
model's card (`foveate models NAME`) and page; they come from other data and stand beside none of these.

A figure is the mean over seeds; in brackets is its 95 % interval over patients, from a bootstrap. Differences
are paired by patient and seed against the variant named in the heading; • marks intervals that leave out 0.
Nothing is corrected for the number of comparisons. Seconds are the median of all epochs, measured while other
work ran on the machine: they compare variants only roughly. The grids of the phantoms hold further variants
that were not trained for these tables; DATA is a folder of reduced public sets that is not part of this
project.
"""


@dataclass(frozen=True)
class Section:
    """One table: its comparison's folder, heading, the command that makes it, and what to know."""

    name: str
    title: str
    command: str
    text: str = ""


def _real(name: str) -> str:
    return f"python benchmarks/results.py {name} --data DATA"


def _phantom(folder: str, more: str, grid: str) -> str:
    return f"foveate phantom studies/{folder} {more} && foveate compare --grid studies/grids/{grid}.yaml"


PHANTOMS = (
    Section("dadrn_phantom", "CT slices: DADRN", _phantom("phantom", "--patients 160", "dadrn_phantom")),
    Section(
        "lca_db_phantom",
        "Eight-phase liver MR, seven classes: LCA-DB",
        _phantom("phantom-liver-mri", "--kind liver-mri --patients 120", "lca_db_phantom"),
    ),
    Section(
        "agf_phantom",
        "Pairs of photograph and ultrasound: AGF-style network",
        _phantom("phantom-paired", "--kind paired --patients 120", "agf_phantom"),
        "Neither picture suffices alone.",
    ),
    Section(
        "can_phantom",
        "Chest radiographs with several findings: CAN",
        _phantom("phantom-chest", "--kind chest --patients 100", "can_phantom"),
    ),
    Section(
        "cervical_phantom",
        "Cells grouped by slide: DenseNet with channel attention",
        _phantom("phantom-cells", "--kind cells", "cervical_phantom"),
    ),
)
REAL = (
    Section("sipakmed-grouped", "SIPaKMeD, cells of a slide image kept together", _real("sipakmed-grouped")),
    Section(
        "sipakmed-authors",
        "SIPaKMeD, the authors' split cell by cell",
        _real("sipakmed-authors"),
        "Cells of one slide image lie in several parts, which is why these figures are not to be believed.",
    ),
    Section(
        "busi",
        "BUSI: the rows of the DADRN paper, with localization",
        _real("busi"),
        "Random maps point into a lesion in 0.093 of the 118 marked cases, a map that is highest in the "
        "middle in 0.246; their boxes have an IoU of 0.131 and 0.210.",
    ),
    Section("nih", "ChestX-ray14, 757 radiographs: the CAN grid", _real("nih")),
    Section("milk10k", "MILK10k pairs: the AGF-style grid", _real("milk10k")),
    Section("acdc", "ACDC, two phases of the heart: the LCA-DB grid", _real("acdc")),
)


def main() -> int:
    """Print the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path("results"))
    work = parser.parse_args().work
    print(INTRODUCTION)
    for title, sections in (("Phantoms", PHANTOMS), ("Real images", REAL)):
        print(f"## {title}\n")
        for section in sections:
            path = work / section.name / "comparison.json"
            if path.exists():
                print("\n".join(_lines(section, json.loads(path.read_text(encoding="utf-8")))))
            else:
                print(f"left out: {path}", file=sys.stderr)
    return 0


def _lines(section: Section, found: Mapping[str, Any]) -> Iterator[str]:
    figures = found["figures"]
    shown = [name for name in FIGURES if any(_value(row, name) for row in figures.values())]
    paired = [name for name in PAIRED if name in shown]
    seeds = len(found["seeds"])
    yield f"### {section.title}\n"
    cases = max(found["cases"].values())
    many = f"{seeds} seeds" if seeds > 1 else "1 seed"
    yield f"{section.text} {cases} test cases of {found['patients']} patients, {many}.\n".lstrip()
    yield f"```sh\n{section.command}\n```\n"
    heads = [FIGURES[name] for name in shown] + [
        f"{FIGURES[name]}: difference to {found['reference']}" for name in paired
    ]
    yield from _table(["Variant", *heads, "M parameters", "s / epoch"], list(_rows(found, shown, paired)))
    for view, rows in found["without"].items():
        yield f"With {view} withheld at test:\n"
        known = {label: row for label, row in rows.items() if "figures" in row}
        yield from _table(
            ["Variant", *(FIGURES[name] for name in PAIRED[:2]), "Macro AUROC: cost"],
            [
                [
                    label,
                    *(_figure(row["figures"].get(name)) for name in PAIRED[:2]),
                    _difference(row["differences"].get("auroc_macro")),
                ]
                for label, row in known.items()
            ],
        )


def _rows(found: Mapping[str, Any], shown: list[str], paired: list[str]) -> Iterator[list[str]]:
    for label, row in found["figures"].items():
        facts = found["variants"][label]
        against = found["differences"].get(label, {})
        yield [
            label,
            *(_figure(row.get(name)) for name in shown),
            *(_difference(against.get(name)) for name in paired),
            f"{facts['parameters'] / 1e6:.2f}",
            f"{facts['seconds_per_epoch']:.1f}",
        ]


def _table(heads: list[str], rows: list[list[str]]) -> Iterator[str]:
    yield f"| {' | '.join(heads)} |"
    yield "|---" * len(heads) + "|"
    for row in rows:
        yield f"| {' | '.join(row)} |"
    yield ""


def _value(row: Mapping[str, Any], name: str) -> bool:
    return name in row and row[name]["value"] is not None


def _figure(item: Mapping[str, Any] | None) -> str:
    if item is None or item["value"] is None:
        return "–"
    if item["low"] is None:
        return f"{item['value']:.3f}"
    return f"{item['value']:.3f} [{item['low']:.3f}, {item['high']:.3f}]"


def _difference(item: Mapping[str, Any] | None) -> str:
    if item is None or item["value"] is None:
        return "–"
    if item["low"] is None:
        return f"{item['value']:+.3f}"
    sure = " •" if item["low"] > 0 or item["high"] < 0 else ""
    return f"{item['value']:+.3f} [{item['low']:+.3f}, {item['high']:+.3f}]{sure}"


if __name__ == "__main__":
    raise SystemExit(main())
