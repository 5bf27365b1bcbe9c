"""A page on paper: the browser that is there prints it, so that paper and screen show the same."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from foveate.errors import RunFailed, UsageError
from foveate.files import replacing

BROWSERS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
    "msedge",
    "microsoft-edge",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)
VARIABLE = "FOVEATE_BROWSER"
_SECONDS = 120


def print_pdf(page: Path, out: Path) -> Path:
    """Print a page of ours as PDF.

    Args:
        page: the HTML file; it fetches nothing, so the browser needs no network.
        out: the PDF to create or replace.

    Returns:
        Its path.

    Raises:
        UsageError: there is no browser of the Chromium family.
        RunFailed: the browser did not print.
    """
    browser = find_browser()
    with tempfile.TemporaryDirectory() as profile, replacing(out) as temporary:
        command = [
            browser,
            "--headless",
            "--disable-gpu",
            "--no-first-run",
            "--no-pdf-header-footer",
            f"--user-data-dir={profile}",
            f"--print-to-pdf={temporary.resolve()}",
            *(["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []),
            page.resolve().as_uri(),
        ]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise _failed(browser, str(error)) from error
        if done.returncode or not temporary.read_bytes().startswith(b"%PDF"):
            raise _failed(browser, done.stderr.strip()[-500:] or f"exit code {done.returncode}")
    return out


def find_browser() -> str:
    """The browser that prints: the one that ``FOVEATE_BROWSER`` names, or the first that is installed.

    Raises:
        UsageError: there is none.
    """
    named = os.environ.get(VARIABLE)
    found = [path for name in ([named] if named else BROWSERS) if (path := shutil.which(name))]
    if found:
        return found[0]
    raise UsageError(
        f"{VARIABLE} names no program: {named}" if named else "there is no browser here to print the report",
        fix=f"install Chromium or Chrome, or name one with {VARIABLE}, or print report.html from any browser",
        code="no-browser",
    )


def _failed(browser: str, why: str) -> RunFailed:
    return RunFailed(f"the browser did not print: {why}", where=browser, code="not-printed")
