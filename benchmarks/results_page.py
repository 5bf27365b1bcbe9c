"""Write docs/results.md from the comparisons in a work folder.

    python benchmarks/results_page.py --work results --page docs/results.md

Each table is what ``foveate compare`` left in ``WORK/<name>/comparison.json``. Sections of the page whose
comparison is there are written anew; the others, and what stands between them, stay as they are. Without
``--page`` the tables are printed.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foveate.evaluate.comparing.paired import LOCALIZED
from foveate.evaluate.localization.wording import METHODS
from foveate.report.comparing.comparison_tables import COLUMNS

FIGURES = ("auroc_macro", "balanced_accuracy")
OF_PLANES = ("pointing_game", "iou")
OF_VOLUMES = ("cell_hit", "plane_pointing")  # the others depend on how many slices the maps have
PAIRED = (*FIGURES, "cell_hit", "pointing_game")


@dataclass(frozen=True)
class Section:
    """One table: its comparison's folder, heading, the command that makes it, and what to know."""

    name: str
    title: str
    command: str
    text: str = ""


def _real(name: str) -> str:
    return f"python benchmarks/results.py {name} --data DATA"


def _phantom(name: str, *variants: str) -> str:
    chosen = shlex.join(["--variants", *variants])
    return f"python benchmarks/results.py {name} {chosen} --seeds 3"


SECTIONS = (
    Section("dadrn_phantom", "CT slices: DADRN", _phantom("dadrn_phantom", "plain", "both")),
    Section(
        "lca_db_phantom",
        "Eight-phase liver MR, seven classes: LCA-DB",
        _phantom("lca_db_phantom", "plain", "full"),
        "The lesion's cell is one of 3 × 3 tiles for LCA-DB's region map, and one of 2 × 6 × 6 cells for the "
        "plain network: read each figure beside its ceiling and its random map "
        "([how volumes are scored](localization.md#volumes)).",
    ),
    Section(
        "agf_phantom",
        "Pairs of photograph and ultrasound: AGF-style network",
        _phantom("agf_phantom", "plain", "full"),
        "Neither picture suffices alone.",
    ),
    Section(
        "can_phantom",
        "Chest radiographs with several findings: CAN",
        _phantom("can_phantom", "plain", "all", "all sum+product"),
    ),
    Section(
        "cervical_phantom",
        "Cells grouped by slide: DenseNet with channel attention",
        _phantom("cervical_phantom", "plain", "CA all dense"),
    ),
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
    """Print the sections, or write them into the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path("results"))
    parser.add_argument("--page", type=Path, help="write the sections of this page anew: docs/results.md")
    chosen = parser.parse_args()
    for section in SECTIONS:
        path = chosen.work / section.name / "comparison.json"
        if not path.exists():
            print(f"left as it is: {section.title} (no {path})", file=sys.stderr)
            continue
        lines = "\n".join(_lines(section, json.loads(path.read_text(encoding="utf-8"))))
        if chosen.page is None:
            print(lines)
        else:
            text = chosen.page.read_text(encoding="utf-8")
            chosen.page.write_text(exchanged(text, section.title, lines), encoding="utf-8")
    return 0


def exchanged(page: str, title: str, lines: str) -> str:
    """A page with the section of this title written anew; it ends before the next heading.

    Raises:
        SystemExit: the page has no such section.
    """
    before, heading, rest = page.partition(f"### {title}\n")
    if not heading:
        raise SystemExit(f"the page has no section '### {title}'")
    following = re.search(r"^##", rest, re.MULTILINE)
    return before + lines.rstrip("\n") + "\n" + ("\n" + rest[following.start() :] if following else "")


def _lines(section: Section, found: Mapping[str, Any]) -> Iterator[str]:
    figures = found["figures"]
    known = [name for name in COLUMNS if any(_value(row, name) for row in figures.values())]
    located = OF_VOLUMES if "cell_hit" in known else OF_PLANES
    shown = [name for name in (*FIGURES, *located) if name in known]
    paired = [name for name in PAIRED if name in shown]
    seeds = len(found["seeds"])
    yield f"### {section.title}\n"
    cases = max(found["cases"].values())
    many = f"{seeds} seeds" if seeds > 1 else "1 seed"
    yield f"{section.text} {cases} test cases of {found['patients']} patients, {many}.\n".lstrip()
    yield f"```sh\n{section.command}\n```\n"
    heads = [COLUMNS[name] for name in shown] + [
        f"{COLUMNS[name]}: difference to {found['reference']}" for name in paired
    ]
    yield from _table(["Variant", *heads, "M parameters", "s / epoch"], list(_rows(found, shown, paired)))
    yield from _beside(found, [name for name in known if name in LOCALIZED])
    for view, rows in found["without"].items():
        yield f"With {view} withheld at test:\n"
        known = {label: row for label, row in rows.items() if "figures" in row}
        yield from _table(
            ["Variant", *(COLUMNS[name] for name in FIGURES), "Macro AUROC: cost"],
            [
                [
                    label,
                    *(_figure(row["figures"].get(name)) for name in FIGURES),
                    _difference(row["differences"].get("auroc_macro")),
                ]
                for label, row in known.items()
            ],
        )


def _beside(found: Mapping[str, Any], names: list[str]) -> Iterator[str]:
    """Where the maps point, between the ceiling of their grid and maps that see no model."""
    rows = [
        [label, METHODS[method], *(_figure(row[name]) for name in names)]
        for label, controls in found.get("beside", {}).items()
        for method, row in {"heatmap": found["figures"][label], **controls}.items()
        if controls
    ]
    if rows:
        yield "Where the maps point, beside the ceiling of their grid and maps that see no model:\n"
        yield from _table(["Variant", "Whose map", *(COLUMNS[name] for name in names)], rows)


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
