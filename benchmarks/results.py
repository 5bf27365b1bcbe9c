"""One table of docs/results.md: prepare a cohort, and compare the models of its grid.

    python benchmarks/results.py busi --data ../shared/data
    python benchmarks/results.py lca_db_phantom --variants plain full

A set of real images is copied into the work folder as ``benchmarks/real_data.py`` says, with the grid
``benchmarks/grids/NAME.yaml``; a phantom is drawn there, with the grid ``studies/grids/NAME.yaml``. The rest
is ``foveate compare``, which repeats no finished run. ``benchmarks/results_page.py`` writes the page.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from real_data import SETS

GRIDS = Path(__file__).parent / "grids"
STUDIES = Path(__file__).parents[1] / "studies"
#: By grid, the folder of its phantom and how it is drawn.
PHANTOMS = {
    "dadrn_phantom": ("phantom", "--patients", "160"),
    "lca_db_phantom": ("phantom-liver-mri", "--kind", "liver-mri", "--patients", "120"),
    "agf_phantom": ("phantom-paired", "--kind", "paired", "--patients", "120"),
    "can_phantom": ("phantom-chest", "--kind", "chest", "--patients", "100"),
    "cervical_phantom": ("phantom-cells", "--kind", "cells"),
}
FOVEATE = str(Path(sys.executable).with_name("foveate"))


def main() -> int:
    """Prepare, compare, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("grid", choices=sorted([*PHANTOMS, *(path.stem for path in GRIDS.glob("*.yaml"))]))
    parser.add_argument(
        "--data", type=Path, default=os.environ.get("FOVEATE_DATA"), help="folder of the sets of real images"
    )
    parser.add_argument("--work", type=Path, default=Path("results"), help="folder for copies and runs")
    parser.add_argument("--variants", nargs="+", help="of the grid; all unless given")
    parser.add_argument("--seeds", type=int, help="trainings of each variant; the grid's unless given")
    chosen = parser.parse_args()
    if chosen.grid in PHANTOMS:
        grid = phantom(chosen.grid, chosen.work / "data")
    elif chosen.data is None:
        parser.error("name the folder of real images with --data, or set FOVEATE_DATA")
    else:
        manifest = SETS[chosen.grid.partition("-")[0]](chosen.data, chosen.work / "data")
        grid = Path(shutil.copy(GRIDS / f"{chosen.grid}.yaml", manifest.parent))
    if chosen.variants:
        only(grid, chosen.variants)
    out = chosen.work / chosen.grid
    seeds = [] if chosen.seeds is None else ["--seeds", str(chosen.seeds)]
    command = [FOVEATE, "compare", "--grid", str(grid), "--out", str(out), *seeds]
    code = subprocess.run(command, check=False).returncode
    table = out / "comparison.md"
    print(table.read_text(encoding="utf-8") if table.exists() else f"no table: {table}")
    return code


def phantom(name: str, work: Path) -> Path:
    """Draw a phantom and lay its study and its grid beside it; the grid."""
    folder, *options = PHANTOMS[name]
    grids = work / "grids"
    grids.mkdir(parents=True, exist_ok=True)
    grid = Path(shutil.copy(STUDIES / "grids" / f"{name}.yaml", grids))
    base = yaml.safe_load(grid.read_text(encoding="utf-8"))["base"]
    shutil.copy(STUDIES / "grids" / base, grids / base)
    if not (work / folder / "manifest.csv").exists():
        subprocess.run([FOVEATE, "phantom", str(work / folder), *options], check=True)
    return grid


def only(grid: Path, labels: Sequence[str]) -> None:
    """Leave these variants in a grid, in the order given."""
    content = yaml.safe_load(grid.read_text(encoding="utf-8"))
    if lost := set(labels) - set(content["variants"]):
        raise SystemExit(f"no such variant in {grid.name}: {', '.join(sorted(lost))}")
    content["variants"] = {label: content["variants"][label] for label in labels}
    if content.get("reference") not in labels:
        content.pop("reference", None)
    grid.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
