"""Commands about public data sets; the package registers them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from foveate.errors import UsageError


def sources(
    name: Annotated[str | None, typer.Argument(help="One of them, to read all about it.")] = None,
) -> None:
    """List the public data sets whose layouts are known, or tell where one comes from and what to beware of.

    Example: foveate sources chestxray14
    """
    from foveate.cli import terminal
    from foveate.data.sources import SOURCES, find_source

    if name is None:
        terminal.show_sources((source.name, source.title) for source in SOURCES.values())
        return
    source = find_source(name)
    terminal.heading(source.title, "")
    facts = (("get it", source.where), ("licence", source.licence), ("cite", source.citation))
    for what, text in (*facts, ("layout", source.layout)):
        terminal.say(f"{what}: {text}")
    for trap in source.traps:
        terminal.say(f"beware: {trap}")
    for option, field in source.options.model_fields.items():
        terminal.say(f"option: {option}={field.default}")


def source(
    name: Annotated[str, typer.Argument(help="A name from `foveate sources`.")],
    root: Annotated[Path, typer.Argument(help="The data set's folder, as downloaded and unpacked.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="CSV to write \\[default: ROOT/manifest.csv].")
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", help="NAME=VALUE of the adapter; repeatable.")
    ] = None,
    strict: Annotated[
        bool, typer.Option(help="Refuse a folder with other than the published counts.")
    ] = False,
) -> None:
    """Write the manifest of a public data set; nothing is downloaded.

    Example: foveate source sipakmed SIPaKMeD/ --option masks=nucleus
    """
    from foveate.cli import terminal
    from foveate.data.sources import find_source, write_source

    found = find_source(name)
    options = dict(map(_pair, option or []))
    written = write_source(found, root, out, options=options, strict=strict, track=terminal.track)
    listing = written.listing
    terminal.say(f"manifest: {written.manifest} ({len(listing.rows)} cases)")
    if written.boxes:
        terminal.say(f"boxes: {written.boxes} ({len(listing.boxes)})")
    for line in listing.differences():
        terminal.say(f"note: {line}")
    for line in (*listing.notes, *found.traps):
        terminal.say(f"beware: {line}")
    boxes = f" --boxes {written.boxes}" if written.boxes else ""
    terminal.say(f"next: foveate init {written.manifest}{boxes} {listing.init}")


def _pair(text: str) -> tuple[str, object]:
    """``name=value``; a comma makes a list."""
    name, equals, value = text.partition("=")
    if not equals:
        raise UsageError(
            f"'{text}' is not NAME=VALUE", where="--option", fix="write it as in: --option val=0.2"
        )
    return name, value.split(",") if "," in value else value
