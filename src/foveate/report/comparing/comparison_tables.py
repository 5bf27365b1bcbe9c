"""The tables of a comparison, from the content of ``comparison.json``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from foveate.evaluate.comparing.paired import LOCALIZED
from foveate.evaluate.comparing.wording import kind_of, shown_p
from foveate.evaluate.localization.wording import METHODS
from foveate.evaluate.results.comparison import (
    AurocTest,
    Comparison,
    DecisionTest,
    SeedFigure,
    VariantPair,
    WithheldView,
)
from foveate.evaluate.results.parts import Unmade
from foveate.report.class_tables import ClassComparison, class_tables
from foveate.report.comparing.tables import ComparisonTable, corrected, difference, figure, mean

# Figure in the file → its name in the tables, in the order of the columns.
COLUMNS = {
    "auroc_macro": "Macro AUROC",
    "balanced_accuracy": "Balanced accuracy",
    "accuracy": "Accuracy",
    "f1_macro": "Macro F1",
    "ap_macro": "Macro AP",
    "ece": "ECE",
    "brier": "Brier score",
    "log_loss": "Log loss",
    "ece_calibrated": "ECE, calibrated",
    "brier_calibrated": "Brier score, calibrated",
    "log_loss_calibrated": "Log loss, calibrated",
    "cell_hit": "Cell hit",
    "plane_pointing": "Pointing in the plane",
    "plane_iou": "Box IoU in the plane",
    "depth_error": "Depth error, slices",
    "pointing_game": "Pointing game",
    "iou": "Box IoU",
    "energy_inside": "Energy inside",
}
_OF_CLASSES = {"auroc": "AUROC", "ap": "AP", "recall": "Recall", "specificity": "Specificity", "f1": "F1"}
_ORIGINS = {
    "model": "Model",
    "options": "Options",
    "parameters": "Parameters",
    "seconds": "Seconds an epoch",
    "changes": "Differs from the reference in",
}


def comparison_tables(result: Comparison) -> Iterator[ComparisonTable]:
    """Every table of a comparison, also those without a row."""
    shown = shown_figures(result)
    level, kind = f"{100 * result.bootstrap.level:g} %", kind_of(result.seeds)
    yield ComparisonTable(
        "Figures",
        f"Mean over {kind}s ± standard deviation over {kind}s; in brackets the {level} interval of the mean, "
        f"from {result.bootstrap.n:,} resamplings of patients. ECE, Brier score, log loss and depth "
        "error: lower is better. † preprocessed otherwise than the reference.",
        ("Variant", *(COLUMNS[name] for name in shown)),
        tuple(
            (label + _mark(result, label), *(figure(found[name]) for name in shown))
            for label, found in result.figures.items()
        ),
    )
    yield _beside(result, shown)
    yield _each(result, shown, kind)
    yield _differences(result, shown, level)
    yield _ranks(result)
    yield _decisions(result)
    yield from class_tables(
        ClassComparison(result.task, result.classes, result.published_by_class, result.bootstrap.level)
    )
    yield _classes(result)
    yield from _withheld(result, shown)
    yield _variants(result)
    yield _published(result)


def shown_figures(result: Comparison) -> list[str]:
    """The figures that any variant has."""
    found = result.figures.values()
    return [name for name in COLUMNS if any(values[name].value is not None for values in found)]


def _each(result: Comparison, shown: Sequence[str], kind: str) -> ComparisonTable:
    """What every training came to, where there are several; of one variant alone it is the main matter."""
    figures = result.figures
    rows = [
        (seed if len(figures) == 1 else f"{label}: {seed}", *(_one(found[name], seed) for name in shown))
        for label, found in figures.items()
        for seed in map(str, result.seeds)
    ]
    return ComparisonTable(
        f"Each {kind}",
        "What the means above are of. Each row is one training, on the test cases of its split.",
        (kind.capitalize(), *(COLUMNS[name] for name in shown)),
        tuple(rows) if len(result.seeds) > 1 else (),
        folded=len(figures) > 1,
    )


def _one(value: SeedFigure, seed: str) -> str:
    found = value.seeds.get(seed)
    return "undefined" if found is None else f"{found:.3f}"


def pair_name(result: Comparison, pair: VariantPair) -> str:
    """A pair as a row is called: by its first model where all are paired with the reference."""
    if all(other.second == result.reference for other in result.pairs):
        return pair.first
    return f"{pair.first} − {pair.second}"


def _beside(result: Comparison, shown: Sequence[str]) -> ComparisonTable:
    """Localization figures between what their grids allow and what maps reach that see no model."""
    names = [name for name in shown if name in LOCALIZED]
    rows = [
        (label, METHODS[method], *(figure(found[name]) for name in names))
        for label, controls in result.beside.items()
        for method, found in {"heatmap": result.figures[label], **controls}.items()
        if controls
    ]
    return ComparisonTable(
        "Heat maps beside their ceiling and their controls",
        "The ceiling is about the best that maps of the variant’s grid could score; the controls never look "
        "at a model. Depth error: lower is better.",
        ("Variant", "Whose map", *(COLUMNS[name] for name in names)),
        tuple(rows),
    )


def _differences(result: Comparison, shown: Sequence[str], level: str) -> ComparisonTable:
    tests, kind = result.tests.families, kind_of(result.seeds)
    main = COLUMNS[result.tests.main]
    paired_with_one = all(pair.second == result.reference for pair in result.pairs)
    return ComparisonTable(
        f"Difference to {result.reference}" if paired_with_one else "Paired differences",
        f"At every {kind} from the same patients for both, mean over {kind}s, {level} interval. p from "
        f"the same resamplings, corrected by Holm's method: {main} over every pair of "
        f"variants ({_tests(tests.main)}), the other figures over this table "
        f"({_tests(tests.others)}). • told apart; it speaks of other patients, not other {kind}s. "
        "An interval can leave out 0 and yet not be marked: so many tests find something by chance.",
        ("Pair" if not paired_with_one else "Variant", *(COLUMNS[name] for name in shown)),
        tuple(
            (
                pair_name(result, pair),
                *(difference(pair.differences[name], result.bootstrap.level) for name in shown),
            )
            for pair in result.pairs
        ),
    )


def _tests(count: int) -> str:
    return f"{count} test{'' if count == 1 else 's'}"


def _ranks(result: Comparison) -> ComparisonTable:
    ranks, rows = result.ranks, []
    for label, value in sorted(ranks.models.items(), key=lambda item: item[1].value or 0.0):
        joined = {name for names in ranks.indistinguishable if label in names for name in names} - {label}
        rows.append((label, figure(value), ", ".join(sorted(joined)) or "nobody"))
    known = all(value.value is not None for value in ranks.models.values())
    return ComparisonTable(
        "Ranks",
        f"In every resampling of patients the variants are ranked by {COLUMNS[ranks.figure]}, 1 is the "
        "best. Not the critical-difference diagram over many data sets: this is one cohort.",
        ("Variant", "Mean rank", "Next to it and not told apart"),
        tuple(rows) if known and len(rows) > 1 else (),
    )


def _decisions(result: Comparison) -> ComparisonTable:
    rows = [
        (
            f"{pair.first} − {pair.second}",
            *map(str, (found.n, found.both, found.only_first, found.only_second, found.neither)),
            shown_p(found.p),
            shown_p(found.p_mid),
            _holm(result, found),
        )
        for pair in result.pairs
        if (found := pair.decisions)
    ]
    return ComparisonTable(
        "Decisions",
        "Which cases are decided right by whom. McNemar's test looks at those that one decides right and the "
        "other wrong, with all cases of a patient together: exact, as mid-p, and exact after Holm's "
        "correction over the pairs.",
        ("Pair", "Cases", "Both", "Only first", "Only second", "Neither", "McNemar", "mid-p", "Corrected"),
        tuple(rows),
    )


def _holm(result: Comparison, test: AurocTest | DecisionTest) -> str:
    return corrected(test.p_holm, result.bootstrap.level).strip()


def _classes(result: Comparison) -> ComparisonTable:
    level = result.bootstrap.level
    rows = []
    for pair in result.pairs:
        for name, found in pair.per_class.items():
            cells = (difference(found.differences[metric], level) for metric in _OF_CLASSES)
            tests = (_second(result, test) for test in (found.delong, found.decisions))
            rows.append((f"{pair_name(result, pair)}: {name}", *cells, *tests))
    families = result.tests.families
    return ComparisonTable(
        "Single classes, paired",
        "Paired differences, each class against the rest; p corrected over this table "
        f"({_tests(families.classes)}). Beside it, where there is one seed, DeLong's test of the "
        "AUROC and McNemar's of the decisions, each corrected on its own.",
        ("Class", *_OF_CLASSES.values(), "AUROC, DeLong", "Decisions, McNemar"),
        tuple(rows),
        folded=True,
    )


def _second(result: Comparison, test: AurocTest | DecisionTest | None) -> str:
    """A second opinion; a dash where several seeds leave no single test."""
    return "–" if test is None else _holm(result, test) or "undefined"


def _withheld(result: Comparison, shown: Sequence[str]) -> Iterator[ComparisonTable]:
    kept = [name for name in shown if name not in LOCALIZED]
    level = result.bootstrap.level
    for view, variants in result.without.items():
        yield ComparisonTable(
            f"Without {view}",
            f"The same test cases with {view} withheld; in brackets what that costs, paired with the same "
            "model on all views.",
            ("Variant", *(COLUMNS[name] for name in kept)),
            tuple((label, *_cost(found, kept, level)) for label, found in variants.items()),
        )


def _cost(found: WithheldView | Unmade, names: Sequence[str], level: float) -> tuple[str, ...]:
    if isinstance(found, Unmade):
        return (found.reason, *("" for _ in names[1:]))
    own, lost = found.figures, found.differences
    return tuple(f"{mean(own[name])} ({difference(lost.get(name), level)})" for name in names)


def _variants(result: Comparison) -> ComparisonTable:
    rows = []
    for label, found in result.variants.items():
        options = ", ".join(f"{key}: {value}" for key, value in found.options.items())
        count = f"{found.parameters / 1e6:.2f} M" if found.parameters else "–"
        seconds = f"{found.seconds_per_epoch:.3g}" if found.seconds_per_epoch is not None else "–"
        changes = "; ".join(found.changes) or "nothing"
        model = found.model + (", pretrained" if found.pretrained else "")
        rows.append((label, model, options or "–", count, seconds, changes))
    note = "Seconds of training and validation on this machine, the median of all epochs."
    return ComparisonTable("Variants", note, ("Variant", *_ORIGINS.values()), tuple(rows))


def _published(result: Comparison) -> ComparisonTable:
    rows = []
    for label, row in result.published.items():
        whole = {name: value for name, value in row.figures.items() if ":" not in name}
        listing = ", ".join(f"{name} {value:.3f}" for name, value in whole.items())  # no single classes
        rows.append((label, row.name, listing, row.data))
    note = (
        "Published, other data: measured by others on other patients; not to be compared with the rows above."
    )
    return ComparisonTable("Published figures", note, ("Variant", "Row", "Figures", "Data"), tuple(rows))


def _mark(result: Comparison, label: str) -> str:
    """A dagger beside variants that see their images differently."""
    changes = result.variants[label].changes
    return " †" if any(line.startswith("preprocess.") for line in changes) else ""
