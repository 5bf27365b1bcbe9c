"""One table of docs/results.md: prepare a set of real images, and compare the models of its grid.

    python benchmarks/results.py busi --data ../shared/data

The set is copied into the work folder as ``benchmarks/real_data.py`` says; the grid is
``benchmarks/grids/NAME.yaml``; the rest is ``foveate compare``. Runs that are finished are not repeated.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

from real_data import SETS

GRIDS = Path(__file__).parent / "grids"


def main() -> int:
    """Prepare, compare, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("grid", choices=sorted(path.stem for path in GRIDS.glob("*.yaml")))
    parser.add_argument(
        "--data", type=Path, default=os.environ.get("FOVEATE_DATA"), help="folder of the sets"
    )
    parser.add_argument("--work", type=Path, default=Path("results"), help="folder for copies and runs")
    chosen = parser.parse_args()
    if chosen.data is None:
        parser.error("name the folder of real images with --data, or set FOVEATE_DATA")
    manifest = SETS[chosen.grid.partition("-")[0]](chosen.data, chosen.work / "data")
    grid = Path(shutil.copy(GRIDS / f"{chosen.grid}.yaml", manifest.parent))
    out = chosen.work / chosen.grid
    command = [
        str(Path(sys.executable).with_name("foveate")),
        "compare",
        "--grid",
        str(grid),
        "--out",
        str(out),
    ]
    code = subprocess.run(command, check=False).returncode
    table = out / "comparison.md"
    print(table.read_text(encoding="utf-8") if table.exists() else f"no table: {table}")
    return code


if __name__ == "__main__":
    raise SystemExit(main())
