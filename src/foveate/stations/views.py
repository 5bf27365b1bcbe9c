"""``views.json`` of a run: how much of its answers each view carries."""

from __future__ import annotations

from collections.abc import Sequence

from foveate.evaluate.intervals import Bootstrap
from foveate.evaluate.results.views import ViewShares
from foveate.evaluate.view_shares import mean_shares
from foveate.maps.heatmaps import Share, read_shares
from foveate.stations.run import Run


def note_views(run: Run, shares: Sequence[Share]) -> None:
    """Write ``views.json`` from the shares of single cases; there is none where a model has one view."""
    settings = run.study.evaluate
    drawn = Bootstrap(settings.bootstrap, settings.level, run.study.seed, settings.interval)
    if shares:
        mean_shares(shares, drawn).write(run.folder)
    else:
        (run.folder / ViewShares.NAME).unlink(missing_ok=True)


def note_views_of_older_runs(run: Run) -> None:
    """The same from ``heatmaps/shares.csv`` where Foveate 0.1.0 explained, which had no such file."""
    if not (run.folder / ViewShares.NAME).is_file() and (shares := read_shares(run.folder / "heatmaps")):
        note_views(run, shares)
