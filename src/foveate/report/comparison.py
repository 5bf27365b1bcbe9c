"""A comparison as CSV, Markdown and one self-contained HTML page, all from the content of its JSON.

Every table is built once, as texts, and written in the two forms; the CSV holds every figure with all digits.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foveate import __version__
from foveate.files import write_atomic
from foveate.report import figures
from foveate.report.build import environment
from foveate.report.files import Json

# Figure in the file → its name in the tables, in the order of the columns.
COLUMNS = {
    "auroc_macro": "Macro AUROC",
    "balanced_accuracy": "Balanced accuracy",
    "accuracy": "Accuracy",
    "f1_macro": "Macro F1",
    "ap_macro": "Macro AP",
    "ece": "ECE",
    "pointing_game": "Pointing game",
    "iou": "Box IoU",
    "energy_inside": "Energy inside",
}
MAIN = "auroc_macro"
_OF_MAPS = ("pointing_game", "iou", "energy_inside")


@dataclass(frozen=True, slots=True)
class Table:
    """One table of the page.

    Attributes:
        title: its heading.
        note: what its numbers are, in a sentence or two.
        header: names of the columns.
        rows: texts, as many a row as the header has.
    """

    title: str
    note: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def write_comparison(result: Json, folder: Path) -> None:
    """Write ``comparison.csv``, ``.md`` and ``.html``.

    Args:
        result: the content of ``comparison.json``.
        folder: where they go.
    """
    tables = [table for table in _tables(result) if table.rows]
    write_atomic(folder / "comparison.csv", _csv(result))
    write_atomic(folder / "comparison.md", _markdown(result, tables))
    page = environment().get_template("comparison.html.j2")
    chart = figures.svg(
        figures.variants_figure(_dots(result), COLUMNS[MAIN]), f"{COLUMNS[MAIN]} of every variant"
    )
    write_atomic(
        folder / "comparison.html",
        page.render(
            version=__version__,
            result=result,
            tables=tables,
            chart=chart,
            lead=lead(result),
            cautions=_cautions(result),
        ),
    )


def lead(result: Json) -> str:
    """What was compared, in a sentence."""
    cases = sorted(set(result["cases"].values()))
    tested = f"{cases[0]}" if len(cases) == 1 else f"{cases[0]} to {cases[-1]}"
    seeds = len(result["seeds"])
    drawn = "each with a split of its own" if result["protocol"]["resplit"] else "one split"
    return (
        f"{len(result['variants'])} variants, {seeds} seed{'s' if seeds > 1 else ''} ({drawn}), tested on "
        f"{tested} cases; {result['patients']} patients in all. The same patients, preprocessing and budget "
        "for every variant, except where the table of variants says otherwise."
    )


def _tables(result: Json) -> Iterator[Table]:
    shown = [name for name in COLUMNS if _any_value(result["figures"].values(), name)]
    level = f"{100 * result['bootstrap']['level']:g} %"
    names = tuple(COLUMNS[name] for name in shown)
    yield Table(
        "Figures",
        f"Mean over seeds ± standard deviation over seeds; in brackets the {level} interval of the mean, "
        f"from {result['bootstrap']['n']} resamplings of patients. † preprocessed otherwise than the "
        "reference.",
        ("Variant", *names),
        tuple(
            (label + _mark(result, label), *(_own(found[name]) for name in shown))
            for label, found in result["figures"].items()
        ),
    )
    yield Table(
        f"Difference to {result['reference']}",
        f"Paired: at every seed from the same patients for both, mean over seeds, {level} interval. One that "
        "leaves out 0 (marked •) speaks of other patients, not of other seeds; nothing is corrected for "
        "the number of comparisons.",
        ("Variant", *names),
        tuple(
            (label, *(_signed(found.get(name)) for name in shown))
            for label, found in result["differences"].items()
        ),
    )
    yield from _withheld(result, shown)
    yield _variants(result)
    yield _published(result)


def _withheld(result: Json, shown: Sequence[str]) -> Iterator[Table]:
    kept = [name for name in shown if name not in _OF_MAPS]
    for view, variants in result["without"].items():
        yield Table(
            f"Without {view}",
            f"The same test cases with {view} withheld; in brackets what that costs, paired with the same "
            "model on all views.",
            ("Variant", *(COLUMNS[name] for name in kept)),
            tuple((label, *_cost(found, kept)) for label, found in variants.items()),
        )


def _cost(found: Json, names: Sequence[str]) -> tuple[str, ...]:
    if "reason" in found:
        return (found["reason"], *("" for _ in names[1:]))
    own, lost = found["figures"], found["differences"]
    return tuple(f"{_mean(own[name])} ({_signed(lost.get(name))})" for name in names)


def _variants(result: Json) -> Table:
    rows = []
    for label, found in result["variants"].items():
        options = ", ".join(f"{key}: {value}" for key, value in found["options"].items())
        count = f"{found['parameters'] / 1e6:.2f} M" if found["parameters"] else "–"
        seconds = f"{found['seconds_per_epoch']:.3g}" if found["seconds_per_epoch"] is not None else "–"
        changes = "; ".join(found["changes"]) or "nothing"
        model = found["model"] + (", pretrained" if found["pretrained"] else "")
        rows.append((label, model, options or "–", count, seconds, changes))
    header = (
        "Variant",
        "Model",
        "Options",
        "Parameters",
        "Seconds an epoch",
        "Differs from the reference in",
    )
    note = "Seconds of training and validation on this machine, the median of all epochs."
    return Table("Variants", note, header, tuple(rows))


def _published(result: Json) -> Table:
    rows = []
    for label, row in result["published"].items():
        named = {
            name: value for name, value in row["figures"].items() if ":" not in name
        }  # no single classes
        rows.append(
            (
                label,
                row["name"],
                ", ".join(f"{name} {value:.3f}" for name, value in named.items()),
                row["data"],
            )
        )
    note = (
        "Published, other data: measured by others on other patients; not to be compared with the rows above."
    )
    return Table("Published figures", note, ("Variant", "Row", "Figures", "Data"), tuple(rows))


def _cautions(result: Json) -> list[str]:
    failed = [
        f"{row['label']}, seed {row['seed']}: failed at {row['station']} [{row['code']}]: {row['message']}"
        for row in result["failures"]
    ]
    return [*failed, *result["notes"]]


def _mark(result: Json, label: str) -> str:
    """A dagger beside variants that see their images differently."""
    changes = result["variants"][label]["changes"]
    return " †" if any(line.startswith("preprocess.") for line in changes) else ""


def _any_value(variants: Any, name: str) -> bool:
    return any(found[name]["value"] is not None for found in variants)


def _mean(value: Json) -> str:
    return "undefined" if value["value"] is None else f"{value['value']:.3f}"


def _own(value: Json) -> str:
    """Mean, spread and interval."""
    if value["value"] is None:
        return "undefined"
    spread = "" if value["sd"] is None else f" ± {value['sd']:.3f}"
    interval = "" if value["low"] is None else f" [{value['low']:.3f}, {value['high']:.3f}]"
    return f"{value['value']:.3f}{spread}{interval}"


def _signed(value: Json | None) -> str:
    """A difference with its interval, marked where that leaves out 0."""
    if value is None or value["value"] is None:
        return "undefined"
    text = f"{value['value']:+.3f}"
    if value["low"] is not None:
        text += f" [{value['low']:+.3f}, {value['high']:+.3f}]"
        text += " •" if value["low"] > 0 or value["high"] < 0 else ""
    return text.replace("-", "−")


def _dots(result: Json) -> dict[str, Json]:
    return {label: found[MAIN] for label, found in result["figures"].items()}


def _csv(result: Json) -> str:
    """One row per variant, kind of value and figure; every digit."""
    stream = io.StringIO()
    seeds = [str(seed) for seed in result["seeds"]]
    writer = csv.writer(stream, lineterminator="\n")
    fixed = ("value", "sd", "low", "high", "n", "patients")
    writer.writerow(["variant", "kind", "figure", *fixed, *(f"seed {seed}" for seed in seeds), "note"])
    for label, kind, figure, value in _values(result):
        own = value.get("seeds", {})
        cells = (value.get(name) for name in fixed)
        writer.writerow(
            [label, kind, figure, *cells, *(own.get(seed) for seed in seeds), value.get("reason")]
        )
    return stream.getvalue()


def _values(result: Json) -> Iterator[tuple[str, str, str, Mapping[str, Any]]]:
    def listed(found: Json, label: str, kind: str) -> Iterator[tuple[str, str, str, Mapping[str, Any]]]:
        for figure, value in found.items():
            yield label, kind, figure, value

    for label, found in result["figures"].items():
        yield from listed(found, label, "own")
    for label, found in result["differences"].items():
        yield from listed(found, label, f"difference to {result['reference']}")
    for view, variants in result["without"].items():
        for label, found in variants.items():
            yield from listed(found.get("figures", {}), label, f"without {view}")
            yield from listed(found.get("differences", {}), label, f"without {view}, difference to all views")
    for label, found in result["variants"].items():
        for name in ("parameters", "seconds_per_epoch"):
            yield label, "cost", name, {"value": found[name]}
    for label, row in result["published"].items():
        for figure, number in row["figures"].items():
            yield label, "published", figure, {"value": number, "reason": row["data"]}


def _markdown(result: Json, tables: Sequence[Table]) -> str:
    lines = [f"# Comparison: {result['name']}", "", lead(result), ""]
    if cautions := _cautions(result):
        lines += ["**Not everything worked out:**", "", *(f"- {_inline(text)}" for text in cautions), ""]
    for table in tables:
        lines += [f"## {table.title}", "", table.note, "", _md_row(table.header)]
        lines += [_md_row(("---",) * len(table.header)), *(_md_row(row) for row in table.rows), ""]
    lines.append(f"Written by Foveate {__version__}. Research use only.")
    return "\n".join(lines) + "\n"


def _md_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_inline(cell) for cell in cells) + " |"


def _inline(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
