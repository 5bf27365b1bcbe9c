"""The command line: its commands, and how each ends."""

from __future__ import annotations

import logging
import warnings

import typer

from foveate.cli.audit import audit
from foveate.cli.compare import compare
from foveate.cli.demo import demo
from foveate.cli.doctor import doctor
from foveate.cli.export import export
from foveate.cli.init import init
from foveate.cli.localize import localize
from foveate.cli.manifest import manifest
from foveate.cli.models import models
from foveate.cli.phantom import phantom
from foveate.cli.plan import plan
from foveate.cli.predict import predict
from foveate.cli.probe import probe
from foveate.cli.run import run_all
from foveate.cli.search import search
from foveate.cli.sources import source, sources
from foveate.cli.stations import evaluate, explain, report, split, train
from foveate.cli.test import test
from foveate.cli.trust import trust
from foveate.device import keep_freed_memory
from foveate.errors import FoveateError

_STOPPED = (130, 143)  # exit codes after Ctrl-C and SIGTERM

app = typer.Typer(
    name="foveate",
    help="Train, explain and prove medical image classifiers, from image-level labels only.\n\n"
    "Exit codes: 0 ok · 2 usage · 3 input refused · 4 run failed · 5 partial (some cases refused).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.command()(demo)
app.command()(phantom)
app.command()(manifest)
app.command()(init)
app.command()(sources)
app.command()(source)
app.command()(audit)
app.command()(split)
app.command()(plan)
app.command()(train)
app.command()(predict)
app.command()(evaluate)
app.command()(explain)
app.command()(localize)
app.command()(report)
app.command(name="run")(run_all)
app.command()(test)
app.command()(probe)
app.command()(export)
app.command()(trust)
app.command()(compare)
app.command()(search)
app.command()(models)
app.command()(doctor)


def main() -> None:
    """Run the command line; every error ends as a clear message and a documented exit code."""
    from foveate.cli import terminal

    warnings.showwarning = terminal.show_warning
    if logging.lastResort is not None:
        logging.lastResort.addFilter(terminal.FirstTime())
    keep_freed_memory()
    try:
        app()
    except SystemExit as ending:
        if ending.code in _STOPPED or isinstance(ending.__context__, typer.Abort):
            terminal.tell_of_a_stop()
            raise SystemExit(ending.code if ending.code in _STOPPED else _STOPPED[0]) from None
        raise
    except FoveateError as error:
        terminal.complain(error)
        raise SystemExit(error.exit_code) from None
    except Exception:
        terminal.complain_of_a_fault()
        raise SystemExit(FoveateError.exit_code) from None
