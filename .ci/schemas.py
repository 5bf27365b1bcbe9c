"""Write the JSON schemas of all result files to docs/schemas/, or say which of them are not up to date.

python .ci/schemas.py            write them
python .ci/schemas.py --check    exit with 1 if one differs
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import sys
from pathlib import Path

from foveate.evaluate import results
from foveate.evaluate.results.file import ResultFile

ELSEWHERE = ("foveate.train.tuning.plan",)  # classes whose parts need torch
FOLDER = Path(__file__).parents[1] / "docs" / "schemas"


def schemas() -> dict[str, str]:
    """File name in docs/schemas → its text, for every class of a result file."""
    for module in pkgutil.iter_modules(results.__path__):
        importlib.import_module(f"{results.__name__}.{module.name}")
    for name in ELSEWHERE:
        importlib.import_module(name)
    return {
        f"{cls.NAME.removesuffix('.json')}.schema.json": json.dumps(
            cls.model_json_schema(), indent=2, ensure_ascii=False
        )
        + "\n"
        for cls in ResultFile.__subclasses__()
        if cls.__module__.startswith((results.__name__, *ELSEWHERE))
    }


def main() -> int:
    """Write or check."""
    wanted = schemas()
    there = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.schema.json")}
    differing = sorted(name for name in {*wanted, *there} if wanted.get(name) != there.get(name))
    if "--check" in sys.argv:
        print(
            "\n".join(f"docs/schemas/{name}: run python .ci/schemas.py" for name in differing) or "up to date"
        )
        return bool(differing)
    FOLDER.mkdir(exist_ok=True)
    for name in differing:
        (FOLDER / name).unlink(missing_ok=True)
        if name in wanted:
            (FOLDER / name).write_text(wanted[name], encoding="utf-8")
    print(f"{len(wanted)} schemas, {len(differing)} written anew")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
