"""One self-contained page about a run: what the data are, how good the model is, where it looked."""

from foveate.report.build import write_report

__all__ = ["write_report"]
