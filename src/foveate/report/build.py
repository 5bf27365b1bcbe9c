"""From a run folder to ``report.html``: read the files, decide what to say, write one page.

The page is self-contained: no script, no font, picture or style from elsewhere, and a content security
policy that forbids them. Every text from the run is escaped by the template engine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

from jinja2 import Environment, PackageLoader, StrictUndefined

from foveate import __version__
from foveate.files import write_atomic
from foveate.report.files import RunFiles
from foveate.report.pictures.cases import Group, Sheet, key_cases
from foveate.report.sections.abstention import abstention
from foveate.report.sections.calibration import calibration, operating_points
from foveate.report.sections.cohort import data, splits, training
from foveate.report.sections.decisions import decisions
from foveate.report.sections.evidence import cases
from foveate.report.sections.guidelines import guidelines, model_card
from foveate.report.sections.localization import localization
from foveate.report.sections.provenance import provenance
from foveate.report.sections.results import confusion, curves, performance
from foveate.report.sections.section import Section
from foveate.report.sections.shift import shift
from foveate.report.sections.shortcuts import shortcuts
from foveate.report.sections.subgroups import subgroups
from foveate.report.sections.summary import summary
from foveate.report.sections.trust import trust
from foveate.report.sections.views import views

SHORT = "summary.html"  # the head of the report alone, beside it

# The order of the page; a section's template is ``templates/sections/<anchor>.html.j2``.
# A section may leave itself out where it has no subject, as that about several views.
SECTIONS: tuple[Callable[[RunFiles], Section | None], ...] = (
    shift,
    data,
    splits,
    training,
    performance,
    curves,
    confusion,
    operating_points,
    calibration,
    decisions,
    abstention,
    subgroups,
    views,
    localization,
    cases,
    shortcuts,
    trust,
    model_card,
    guidelines,
    provenance,
)


def write_report(run: Path, out: Path | None = None) -> Path:
    """Write the report of a run from whatever files it has; a section without its files says how to get them.

    Its head, which fits two printed pages, is written beside it as ``summary.html``.

    Args:
        run: the run folder.
        out: the page to write; None writes ``report.html`` in the run folder.

    Returns:
        Path of the page.

    Raises:
        UsageError: the folder holds no file of a run.
        InputRefused: a file of the run is damaged.
    """
    run = Path(run)
    files = RunFiles.read(run)
    sections = [section for make in SECTIONS if (section := make(files)) is not None]
    path = out or run / "report.html"
    shared = {
        "run": str(run),
        "version": __version__,
        "head": summary(files),
        "key_cases": _key_cases(sections),
        "cases_of": files.cases_of,
        "patients_known": files.patients_known,
        "drawn": "patients" if files.patients_known else "cases",
    }
    pages = environment()
    write_atomic(path, pages.get_template("report.html.j2").render(**shared, sections=sections, whole=""))
    short = pages.get_template("short.html.j2").render(**shared, whole=path.name)
    write_atomic(path.with_name(SHORT), short)
    return path


def _key_cases(sections: Sequence[Section]) -> tuple[Group, ...]:
    """A few of the cases that the page shows further down."""
    content = next((section.content for section in sections if section.anchor == "cases"), None)
    return key_cases(cast(Sequence[Sheet], content["sheets"])) if content else ()


def environment() -> Environment:
    """Templates of this room, with every text from outside escaped."""
    environment = Environment(
        loader=PackageLoader("foveate.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["position"] = position
    environment.filters["significant"] = significant
    return environment


def position(value: float) -> str:
    """Place on a scale from 0 to 1 as a CSS percentage."""
    return f"{100 * min(max(value, 0.0), 1.0):.2f}%"


def significant(value: float) -> str:
    """Three significant digits, all digits of larger numbers, and a true minus sign."""
    text = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return text.replace("-", "−")
