"""How the run came about: enough to repeat it, or to find out why a repetition differs."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from datetime import datetime

import yaml

from foveate.report.files import RunFiles
from foveate.report.sections.section import Section, within


def provenance(files: RunFiles) -> Section:
    """Versions, seed, hashes, command lines, machine, durations, and the study itself."""
    run = files.run
    if run is None:
        return Section("provenance", "Provenance", "run", None)
    stations = within(run, "stations") or {}
    content = {
        "facts": [
            ("Study", run.get("name")),
            ("Last station ended", date_in_words(run.get("date"))),
            ("Seed", run.get("seed")),
            ("Command", command_in_words(run.get("command"))),
            *((str(name).capitalize(), part) for name, part in (run.get("device") or {}).items()),
        ],
        "stations": [
            (
                name,
                date_in_words(found.get("started")),
                duration_in_words(found.get("seconds")),
                command_in_words(found.get("command")),
            )
            for name, found in stations.items()
        ],
        "total": duration_in_words(sum(float(found.get("seconds") or 0) for found in stations.values())),
        "versions": list((run.get("versions") or {}).items()),
        "hashes": list((run.get("hashes") or {}).items()),
        "study": yaml.safe_dump(files.study, sort_keys=False, allow_unicode=True) if files.study else "",
    }
    return Section("provenance", "Provenance", "run", content)


def date_in_words(text: object) -> str:
    """``21 November 2026, 06:04 UTC`` for an ISO date; anything else as it is."""
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError:
        return str(text or "unknown")
    return f"{moment.day} {moment:%B %Y, %H:%M} {moment:%Z}".rstrip()


def duration_in_words(seconds: object) -> str:
    """``0.4 s``, ``37 s``, ``2 min 05 s`` or ``3 h 20 min``."""
    if not isinstance(seconds, (int, float)):
        return "unknown"
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def command_in_words(command: object) -> str:
    """A command line as one would type it."""
    if isinstance(command, Sequence) and not isinstance(command, str):
        return shlex.join(str(part) for part in command)
    return str(command or "unknown")
