"""``foveate localize``: boxes from heat maps, tested against the truth."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foveate.cli.target import RunOption, Target, open_run
from foveate.cli.terminal import console, interval, new_table, number, say

if TYPE_CHECKING:
    from foveate.evaluate.results.localization import Localization


def localize(target: Target, run: RunOption = None) -> None:
    """Turn heat maps into boxes, and test them against the truth and against controls.

    Example: foveate localize runs/study
    """
    from foveate.cli import terminal
    from foveate.stations.localize import localize as localize_run

    opened = open_run(target, run)
    show_localization(localize_run(opened, track=terminal.track))
    terminal.say(f"boxes: {opened.folder / 'boxes.csv'}")


_SHOWN = (
    "cell_hit",
    "plane_pointing",
    "depth_error",
    "plane_iou",
    "pointing_game",
    "energy_inside",
    "iou",
    "dice",
)


def show_localization(found: Localization) -> None:
    """Print localization beside its ceiling and its controls, and what it comes to."""
    from foveate.evaluate.localization.wording import MEASURES, METHODS, main_measure, verdict
    from foveate.evaluate.results.parts import ABSENT

    methods = found.overall.methods
    if not methods:
        say(f"localization: {found.reason or 'no case has a true mask or box'}")
        return
    heatmap = methods["heatmap"]
    shown = [name for name in _SHOWN if heatmap.figure(name)]
    table = new_table("localization", *(name.replace("_", " ") for name in shown))
    for method, words in METHODS.items():
        if method in methods:
            table.add_row(words.lower(), *(number(methods[method].figure(name) or ABSENT) for name in shown))
    console.print(table)
    main = main_measure(methods)
    own = heatmap.figure(main) or ABSENT
    say(f"{main.replace('_', ' ')} of the heat maps: {number(own)}, interval {interval(own)}")
    if answers := found.by_answer:
        counts = ", ".join(f"{part.n} {answer}ly answered" for answer, part in answers.items())
        say(f"scored: {counts}")
    for measure in MEASURES:
        if said := verdict(found, measure):
            say(said)
