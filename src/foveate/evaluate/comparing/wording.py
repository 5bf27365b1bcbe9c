"""What a paired comparison found, in plain sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from foveate.evaluate.results.comparison import DecisionTest, SeedFigure, VariantPair


def kind_of(seeds: Sequence[int | str]) -> str:
    """What one training of a variant is called: ``seed``, or ``fold`` where each was tested on one."""
    return "fold" if any(isinstance(each, str) for each in seeds) else "seed"


def sentence(
    pair: VariantPair, figures: Mapping[str, Mapping[str, SeedFigure]], main: str, level: float
) -> str:
    """Say of two models who decides more cases right, and who tells the classes apart better.

    Args:
        pair: one of ``pairs`` of ``comparison.json``, its p-values corrected.
        figures: of every variant.
        main: the figure that the comparison is about.
        level: of confidence, such as 0.95.

    Returns:
        A sentence on decisions (multi-class cohorts) and one on the main figure.
    """
    first, second = pair.first, pair.second
    told = [_decided(pair, pair.decisions, level)] if pair.decisions else []
    paired = pair.differences[main]
    name = "macro AUROC" if main == "auroc_macro" else main
    if paired.value is None:
        return " ".join([*told, f"The {name} is undefined."])
    one, two = (figures[label][main].value for label in (first, second))
    bounds = [_signed(bound) for bound in (paired.low, paired.high) if bound is not None]
    interval = f" [{', '.join(bounds)}]" if bounds else ""
    seeds = pair.seeds
    over = f", the mean over {len(seeds)} {kind_of(seeds)}s" if len(seeds) > 1 else ""
    verdict = _verdict(paired.p_holm, paired.value, pair, level)
    told.append(
        f"{first} has a {name} of {one:.3f}, {second} of {two:.3f}{over}: "
        f"difference {_signed(paired.value)}{interval}; {verdict}."
    )
    return " ".join(told)


def shown_p(p: float | None) -> str:
    """A p-value with two significant digits: ``p = 0.79``, ``p < 0.001``."""
    if p is None:
        return "p undefined"
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}" if p < 0.995 else "p = 1"


def _decided(pair: VariantPair, found: DecisionTest, level: float) -> str:
    first, second = pair.first, pair.second
    one, two = found.both + found.only_first, found.both + found.only_second
    more, n = one - two, found.n
    count = f"{abs(more)} case{'' if abs(more) == 1 else 's'} of {n}"
    start = f"{first} decides {one} of {n} cases right, {second} {two}"
    if more == 0:
        return f"{start}: as many, {found.only_first} of them only {first} and as many only {second}."
    side = "more" if more > 0 else "fewer"
    alone = f"right in {first} alone {found.only_first}, in {second} alone {found.only_second}"
    return f"{start}: {count} {side} ({alone}); {_verdict(found.p_holm, more, pair, level)}."


def _verdict(p: float | None, difference: float, pair: VariantPair, level: float) -> str:
    """Who is better, or that nobody can say."""
    if p is None:
        return "there is no test of it"
    if p >= 1 - level:
        return f"not distinguishable ({shown_p(p)})"
    return f"{pair.first if difference > 0 else pair.second} is better ({shown_p(p)})"


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")
