"""A comparison as CSV, Markdown and one self-contained HTML page, all from the content of its JSON.

Every table is built once, as texts, and written in the two forms; the CSV holds every figure with all digits.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from foveate import __version__
from foveate.evaluate.comparing.paired import LOWER_IS_BETTER
from foveate.evaluate.comparing.wording import kind_of
from foveate.evaluate.intervals import Value
from foveate.evaluate.results.comparison import Comparison, RunsProtocol, VariantPair, WithheldView
from foveate.files import write_atomic
from foveate.report.build import environment
from foveate.report.cautions import in_words
from foveate.report.comparing.comparison_tables import (
    COLUMNS,
    comparison_tables,
    pair_name,
    shown_figures,
)
from foveate.report.comparing.tables import ComparisonTable, markdown, one_line
from foveate.report.figures.comparison import forest_figure, rank_figure, variants_figure
from foveate.report.figures.drawing import svg
from foveate.report.pictures.case_sheets import CaseSheets
from foveate.report.sections.section import Chart

_FIXED = ("value", "sd", "low", "high", "n", "patients", "p", "p_holm")


def write_comparison(
    result: Comparison, folder: Path, cases: CaseSheets, beside: Sequence[ComparisonTable] = ()
) -> None:
    """Write ``comparison.csv``, ``.md`` and ``.html``.

    Args:
        result: the comparison.
        folder: where they go.
        cases: of the runs side by side.
        beside: further tables, of what else the runs have found out.
    """
    tables = [table for table in (*comparison_tables(result), *beside) if table.rows]
    write_atomic(folder / "comparison.csv", _csv(result))
    write_atomic(folder / "comparison.md", _markdown(result, tables))
    page = environment().get_template("comparison.html.j2")
    write_atomic(
        folder / "comparison.html",
        page.render(
            version=__version__,
            name=result.name,
            lead=lead(result),
            sentences=_sentences(result),
            care=in_words(result.cautions, len(result.variants)),
            cautions=_cautions(result),
            charts=list(_charts(result)),
            forests=list(_forests(result)),
            tables=tables,
            cases=cases,
            facts=list(_facts(result)),
        ),
    )


def lead(result: Comparison) -> str:
    """What was compared, in a sentence."""
    cases = sorted(set(result.cases.values()))
    tested = f"{cases[0]}" if len(cases) == 1 else f"{cases[0]} to {cases[-1]}"
    seeds, kind = len(result.seeds), kind_of(result.seeds)
    count = len(result.variants)
    if isinstance(result.protocol, RunsProtocol):
        return (
            f"{count} runs, tested on the same {tested} cases of {result.patients} patients. "
            "How they were trained may differ: see the table of variants."
        )
    drawn = "each seed with a split of its own" if result.protocol.resplit else "one split"
    return (
        f"{count} variant{'s' if count > 1 else ''}, {seeds} {kind}{'s' if seeds > 1 else ''} ({drawn}), "
        f"tested on {tested} cases; {result.patients} patients in all. The same patients, preprocessing "
        "and budget for every variant, except where the table of variants says otherwise."
    )


def _sentences(result: Comparison) -> list[str]:
    return [pair.sentence for pair in result.pairs]


def _charts(result: Comparison) -> Iterator[Chart]:
    """The main figure of every variant, and their ranks by it."""
    main = result.tests.main
    dots = {label: found[main] for label, found in result.figures.items()}
    text, one = f"{COLUMNS[main]} of every variant", kind_of(result.seeds)
    yield Chart(
        svg(variants_figure(dots, COLUMNS[main]), text),
        f"{text}. Dots: one a {one}. Diamond: their mean, with its interval over patients.",
    )
    ranks = result.ranks.models.values()
    if len(ranks) > 1 and all(value.value is not None for value in ranks):
        yield Chart(
            svg(rank_figure(result.ranks), f"Mean ranks by {COLUMNS[main]}"),
            f"Mean rank by {COLUMNS[main]} over resamplings of patients. A bar joins neighbours of whom "
            "no pair is told apart after correction.",
        )


def _forests(result: Comparison) -> Iterator[Chart]:
    """Differences of every figure, one chart a figure."""
    level = result.bootstrap.level
    for name in shown_figures(result) if result.pairs else ():
        rows = [(pair_name(result, pair), pair.differences[name]) for pair in result.pairs]
        title = COLUMNS[name] + (" (lower is better)" if name in LOWER_IS_BETTER else "")
        yield Chart(svg(forest_figure(rows, level), f"Paired differences of {title}"), title)


def _facts(result: Comparison) -> Iterator[tuple[str, str, str]]:
    """Name, text and hash of what the figures rest on."""
    protocol = result.protocol
    if isinstance(protocol, RunsProtocol):
        for label, run in protocol.runs.items():
            yield f"{label}: manifest", run.manifest, run.manifest_sha256 or ""
            yield f"{label}: split", run.folder, run.splits_sha256 or ""
        return
    yield "Manifest", protocol.manifest, protocol.manifest_sha256
    for seed, code in protocol.splits_sha256.items():
        yield f"Split of seed {seed}", "", code
    yield "Accepted audit findings", ", ".join(protocol.allowed) or "none", ""


def _cautions(result: Comparison) -> list[str]:
    failed = [
        f"{row.label}, seed {row.seed}: failed at {row.station} [{row.code}]: {row.message}"
        for row in result.failures
    ]
    return [*failed, *result.notes]


def _csv(result: Comparison) -> str:
    """One row per variant, kind of value and figure; every digit."""
    stream = io.StringIO()
    seeds = [str(seed) for seed in result.seeds]
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["variant", "kind", "figure", *_FIXED, *(f"seed {seed}" for seed in seeds), "note"])
    for label, kind, figure, value in _values(result):
        own = getattr(value, "seeds", {})
        cells = (getattr(value, name, None) for name in _FIXED)
        writer.writerow([label, kind, figure, *cells, *(own.get(seed) for seed in seeds), value.reason])
    return stream.getvalue()


@dataclass(frozen=True, slots=True)
class CsvNumber:
    """A number of the CSV that is no figure of a variant; what it lacks is left empty."""

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    p: float | None = None
    p_holm: float | None = None
    reason: str | None = None


Cell = tuple[str, str, str, Value | CsvNumber]


def _values(result: Comparison) -> Iterator[Cell]:
    for label, found in result.figures.items():
        yield from _listed(found, label, "own")
    for label, classes in result.classes.items():
        for name, own in classes.items():
            cells = {f"{name}: {key}": value for key, value in own.figures.items()}
            yield from _listed(cells, label, "by class")
    for label, methods in result.beside.items():
        for method, found in methods.items():
            yield from _listed(found, label, method)
    for pair in result.pairs:
        yield from _of_pair(pair)
    for view, variants in result.without.items():
        for label, lacking in variants.items():
            if isinstance(lacking, WithheldView):
                yield from _listed(lacking.figures, label, f"without {view}")
                kind = f"without {view}, difference to all views"
                yield from _listed(lacking.differences, label, kind)
    for label, facts in result.variants.items():
        yield label, "cost", "parameters", CsvNumber(facts.parameters)
        yield label, "cost", "seconds_per_epoch", CsvNumber(facts.seconds_per_epoch)
    for label, row in result.published.items():
        for figure, number in row.figures.items():
            yield label, "published", figure, CsvNumber(number, reason=row.data)
    for each in result.published_by_class:
        for name, value in each.values.items():
            note = f"{each.data}; {each.named}"
            yield each.name, "published by class", f"{name}: {each.figure}", CsvNumber(value, reason=note)


def _of_pair(pair: VariantPair) -> Iterator[Cell]:
    """Differences of all classes and of each, and the tests beside them."""
    label, kind = pair.first, f"difference to {pair.second}"
    yield from _listed(pair.differences, label, kind)
    for name, found in pair.per_class.items():
        classes = {f"{name}: {metric}": value for metric, value in found.differences.items()}
        yield from _listed(classes, label, kind)
        if test := found.delong:
            number = CsvNumber(test.difference, test.low, test.high, p=test.p, p_holm=test.p_holm)
            yield label, f"{kind}, DeLong", f"{name}: auroc", number
    named = {"": pair.decisions, **{name: row.decisions for name, row in pair.per_class.items()}}
    for name, decided in named.items():
        if decided:
            share = (decided.only_first - decided.only_second) / decided.n if decided.n else None
            figure = f"{name}: decided right" if name else "decided right"
            number = CsvNumber(share, n=decided.n, p=decided.p, p_holm=decided.p_holm)
            yield label, f"{kind}, McNemar", figure, number


def _listed(found: Mapping[str, Value], label: str, kind: str) -> Iterator[Cell]:
    for figure, value in found.items():
        yield label, kind, figure, value


def _markdown(result: Comparison, tables: Sequence[ComparisonTable]) -> str:
    lines = [f"# Comparison: {result.name}", "", lead(result), ""]
    lines += [*(f"- {one_line(text)}" for text in _sentences(result)), ""]
    if care := in_words(result.cautions, len(result.variants)):
        lines += ["**Read with care:**", "", *(f"- {one_line(text)}" for text in care), ""]
    if cautions := _cautions(result):
        lines += ["**Not everything worked out:**", "", *(f"- {one_line(text)}" for text in cautions), ""]
    lines += [line for table in tables for line in markdown(table)]
    lines.append(f"Written by Foveate {__version__}. Research use only.")
    return "\n".join(lines) + "\n"
