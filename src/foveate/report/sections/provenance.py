"""How the run came about: enough to repeat it, or to find out why a repetition differs."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from datetime import datetime

import yaml

from foveate.report.files import RunFiles
from foveate.report.sections.section import Section


def provenance(files: RunFiles) -> Section:
    """Versions, seed, hashes, command lines, machine, durations, and the study itself."""
    run = files.run
    if run is None:
        return Section("provenance", "Provenance", "run", None)
    content = {
        "facts": [
            ("Study", run.name),
            ("Last station ended", date_in_words(run.date)),
            ("Seed", run.seed),
            ("Command", command_in_words(run.command)),
            *((name.capitalize(), part) for name, part in run.device.items()),
        ],
        "stations": [
            (
                name,
                date_in_words(done.started),
                duration_in_words(done.seconds),
                command_in_words(done.command),
            )
            for name, done in run.stations.items()
        ],
        "total": duration_in_words(run.seconds),
        "versions": list(run.versions.items()),
        "hashes": list(run.hashes.model_dump(mode="json").items()),
        "study": yaml.safe_dump(files.study, sort_keys=False, allow_unicode=True) if files.study else "",
    }
    return Section("provenance", "Provenance", "run", content)


def date_in_words(text: str) -> str:
    """``21 November 2026, 06:04 UTC`` for an ISO date; anything else as it is."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return text or "unknown"
    return f"{moment.day} {moment:%B %Y, %H:%M} {moment:%Z}".rstrip()


def duration_in_words(seconds: float) -> str:
    """``0.4 s``, ``37 s``, ``2 min 05 s`` or ``3 h 20 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def command_in_words(command: Sequence[str]) -> str:
    """A command line as one would type it."""
    return shlex.join(command) or "unknown"
