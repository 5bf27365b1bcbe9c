"""The report in a real browser: nothing fails, nothing is fetched, nothing sticks out at the side.

Chromium is driven through its DevTools protocol over a pipe (``--remote-debugging-pipe``): messages are JSON
that end with a zero byte, sent on file descriptor 3 and answered on 4.
"""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from foveate.report.build import write_report
from foveate.report.comparing.side_by_side import write_side_by_side
from report_run import write_run

pytestmark = pytest.mark.slow

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)
COMPLAINTS = (
    "Runtime.exceptionThrown",
    "Runtime.consoleAPICalled",
    "Log.entryAdded",
    "Network.loadingFailed",
)
SCHEME = "prefers-color-scheme"
# Puts two inherited file descriptors where Chromium expects its pipe, then becomes Chromium.
LAUNCH = """
import fcntl, os, sys
for wanted, given in zip((3, 4), [fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3]]):
    os.dup2(given, wanted)
os.execv(sys.argv[3], sys.argv[3:])
"""
LIVER = ("normal", "cyst", "FNH", "HCC", "hemangioma")
FINDINGS = tuple(f"Finding_with_a_long_name_{number}" for number in range(14))


class Browser:
    """One tab of a headless Chromium.

    Args:
        program: the executable.
        profile: an empty folder for its profile.
    """

    def __init__(self, program: str, profile: Path) -> None:
        self.events: list[dict[str, Any]] = []
        commands, self._out = os.pipe()
        self._in, answers = os.pipe()
        chromium = (program, *FLAGS, f"--user-data-dir={profile}", "about:blank")
        self._process = subprocess.Popen(
            [sys.executable, "-c", LAUNCH, str(commands), str(answers), *chromium],
            pass_fds=(commands, answers),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(commands)
        os.close(answers)
        self._rest, self._count, self._session = b"", 0, ""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: object) -> dict[str, Any]:
        """Send a command and wait for its answer; events that come in between are kept."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._count:
                assert "error" not in answer, answer
                return dict(answer["result"])
            self.events.append(answer)

    def open(
        self, page: Path, width: int, height: int = 900, *, dark: bool = False, paper: bool = False
    ) -> None:
        """Load a page at a window size and wait until everything in it is there."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": SCHEME, "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media="print" if paper else "", features=[scheme])
        self.events.clear()
        self.call("Page.navigate", url=page.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self._receive())

    def ask(self, expression: str) -> Any:
        """Value of a JavaScript expression in the page."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def screenshot(self) -> np.ndarray[Any, Any]:
        """What the window shows, ``(H, W, 3)``."""
        data = self.call("Page.captureScreenshot", format="png")["data"]
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))

    def close(self) -> None:
        self._session = ""
        self.call("Browser.close")
        self._process.wait(timeout=30)
        os.close(self._out)
        os.close(self._in)

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            chunk = os.read(self._in, 1 << 20)
            assert chunk, "the browser ended"
            self._rest += chunk
        message, _, self._rest = self._rest.partition(b"\0")
        return dict(json.loads(message))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium on this machine (on Debian: apt-get install chromium)")
    found = Browser(program, tmp_path_factory.mktemp("profile"))
    yield found
    found.close()


@pytest.fixture(scope="module", params=["multiclass", "multilabel", "just begun"])
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    if request.param == "multiclass":
        write_run(folder, patients=24)
    elif request.param == "multilabel":
        write_run(folder, task="multilabel", classes=FINDINGS, patients=16, per_patient=2)
    else:
        (folder / "study.yaml").write_text("name: a study with a long name, " + "long" * 30)
    return write_report(folder)


@pytest.mark.parametrize("width", [1400, 900, 380])
def test_the_page_fits_its_window_and_fetches_nothing(browser: Browser, page: Path, width: int) -> None:
    browser.open(page, width)
    assert browser.ask("document.documentElement.scrollWidth") <= width
    assert [event for event in browser.events if event["method"] in COMPLAINTS] == []
    sent = [event["params"] for event in browser.events if event["method"] == "Network.requestWillBeSent"]
    urls = [params["request"]["url"] for params in sent]
    assert [url for url in urls if not url.startswith("data:")] == [page.as_uri()]


def test_every_picture_can_be_drawn(browser: Browser, page: Path) -> None:
    browser.open(page, 1400)
    sizes = browser.ask(
        """Promise.all([...document.querySelectorAll("svg image")].map(async element => {
            const image = new Image(); image.src = element.href.baseVal; await image.decode();
            return Math.min(image.naturalWidth, image.naturalHeight, element.getBoundingClientRect().width);
        }))"""
    )
    assert all(size > 50 for size in sizes)
    widths = browser.ask(
        '[...document.querySelectorAll("svg.picture use")].map(use => use.getBoundingClientRect().width)'
    )
    assert all(width > 0 for width in widths)


def test_nothing_in_the_page_overlaps_its_neighbour(browser: Browser, page: Path) -> None:
    """Text of charts stays inside its chart, and cells of tables inside their column."""
    browser.open(page, 1400)
    outside = browser.ask(
        """[...document.querySelectorAll("figure.chart")].flatMap(figure => {
            const frame = figure.getBoundingClientRect();
            return [...figure.querySelectorAll("text")].filter(text => {
                const box = text.getBoundingClientRect();
                return box.left < frame.left - 2 || box.right > frame.right + 2
                    || box.bottom > frame.bottom + 2;
            }).map(text => text.textContent);
        })"""
    )
    assert outside == []
    wide = browser.ask(
        """[...document.querySelectorAll(".scroll")].filter(box => box.scrollWidth > box.clientWidth + 1)
            .map(table => table.textContent.trim().slice(0, 40))"""
    )
    assert wide == [], "on a desktop no table needs to be scrolled"


def test_light_dark_and_paper_look_as_meant(browser: Browser, page: Path) -> None:
    browser.open(page, 1200)
    light = browser.screenshot()
    browser.open(page, 1200, dark=True)
    dark = browser.screenshot()
    assert np.median(light) > 240 and np.median(dark) < 40
    assert light.std() > 10 and dark.std() > 10, "neither is blank"
    browser.open(page, 1200, dark=True, paper=True)
    assert np.median(browser.screenshot()) > 240, "paper is light, whatever the screen is"
    assert browser.ask('getComputedStyle(document.querySelector("nav")).display') == "none"


@pytest.mark.parametrize("width", [1400, 380])
def test_a_click_enlarges_the_pictures_of_a_case(browser: Browser, page: Path, width: int) -> None:
    browser.open(page, width)
    if not browser.ask('document.querySelectorAll(".card").length'):
        pytest.skip("this page has no cases yet")
    measure = 'document.querySelector(".card svg.picture").getBoundingClientRect().width'
    before = browser.ask(measure)
    browser.ask('document.querySelector(".card svg.picture").parentElement.click()')
    assert browser.ask(measure) > 1.8 * before
    assert browser.ask("document.documentElement.scrollWidth") <= width
    browser.ask('document.querySelector(".card svg.picture").parentElement.click()')
    assert browser.ask(measure) == before


def test_the_table_of_contents_stays_in_view(browser: Browser, page: Path) -> None:
    browser.open(page, 1400, 500)
    browser.ask('document.documentElement.style.scrollBehavior = "auto"; location.hash = "#provenance"')
    assert browser.ask("window.scrollY") > 500
    assert browser.ask('document.querySelector("nav").getBoundingClientRect().top') > -1
    top = browser.ask('document.querySelector("#provenance").getBoundingClientRect().top')
    assert -1 <= top < 500, "and its links lead to their section"


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs side by side."""
    folder = tmp_path_factory.mktemp("runs")
    first = write_run(folder / "first", classes=LIVER, patients=12, per_patient=1)
    shutil.copytree(first, folder / "second with a long name")
    return write_side_by_side({path.name: path for path in sorted(folder.iterdir())}, folder / "page.html")


@pytest.mark.parametrize("width", [1280, 390])
def test_runs_side_by_side_fit_the_window_and_stand_in_one_row(
    browser: Browser, compared: Path, width: int
) -> None:
    browser.open(compared, width)
    assert browser.ask("document.documentElement.scrollWidth") <= width
    assert [event for event in browser.events if event["method"] in COMPLAINTS] == []
    places = browser.ask(
        """[...document.querySelectorAll(".abreast .panels")].map(row =>
            [...row.querySelectorAll(".frame")].map(frame => {
                const box = frame.getBoundingClientRect();
                return [box.left, box.top, box.width];
            }))"""
    )
    assert places
    for picture, *runs in places:
        assert len(runs) == 2 and runs[0][1] == runs[1][1] and runs[0][0] < runs[1][0]
        assert min(frame[2] for frame in (picture, *runs)) > 120
    clipped = browser.ask(
        """[...document.querySelectorAll(".abreast .title, .abreast .legend")]
            .filter(text => text.scrollWidth > text.clientWidth + 1).map(text => text.textContent)"""
    )
    assert clipped == []
