"""The report in a real browser, where there is one: no errors, no requests, nothing clipped, prints.

Chromium is driven over its DevTools pipe, so that no package is needed for it.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from emergence.report.write import write_report
from tests.planted_runs import F1, fake_cka, fake_run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

WIDTHS = (390, 1440)
#: What sticks out of the page without a box of its own to scroll in, and pictures that did not load.
LOOK = """
(() => {
  const wide = document.documentElement.scrollWidth, room = window.innerWidth;
  const out = [...document.querySelectorAll('body *')].filter(e => {
    const r = e.getBoundingClientRect();
    return r.width && !e.closest('.box') && !e.closest('.skip') && (r.right > room + 1 || r.left < -1);
  });
  const cut = [...document.querySelectorAll('.box')].filter(e =>
    e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).overflowX !== 'auto');
  const broken = [...document.images].filter(i => !i.complete || !i.naturalWidth);
  const small = [...document.querySelectorAll('p, li, td, th, dd')].filter(e =>
    e.innerText.trim() && parseFloat(getComputedStyle(e).fontSize) < 12);
  const cells = [...document.querySelectorAll('#verdict .cell')].map(e => e.getBoundingClientRect());
  const beside = cells.length > 1 && Math.abs(cells[0].top - cells[1].top) < 2;
  const split = [...document.querySelectorAll('.number')].filter(e => e.getClientRects().length > 1);
  const paper = getComputedStyle(document.body).backgroundColor;
  const name = e => e.tagName + ' ' + (e.innerText || e.src || '').slice(0, 60);
  return {wide, room, out: out.map(name), cut: cut.map(name), broken: broken.map(name), small: small.map(name),
    beside, split: split.map(name), paper};
})()
"""


#: Starts a program that reads commands from descriptor 3 and answers on 4, as Chromium does.
ON_3_AND_4 = """
import fcntl, os, sys
pair = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3]]
for wanted, given in enumerate(pair, start=3):
    os.dup2(given, wanted)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Browser:
    """One page of a headless Chromium.

    Attributes:
        events: Everything it reported, in order.
    """

    def __init__(self, write: int, read: int) -> None:
        self._write, self._read, self._parts = write, read, [b""]
        self._ids, self.events = itertools.count(1), list[dict[str, Any]]()
        self._session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Runtime", "Log", "Network", "Page"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._ids)
        message = {"id": number, "method": method, "params": params}
        message |= {"sessionId": self._session} if self._session else {}
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            found = self._next()
            if found.get("id") == number:
                assert "error" not in found, found
                return dict(found["result"])

    def open(self, url: str) -> None:
        """Go there, until it is loaded."""
        before = len(self.events)
        self.call("Page.navigate", url=url)
        while all(event.get("method") != "Page.loadEventFired" for event in self.events[before:]):
            self._next()

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._parts[-1]:
            self._parts.append(os.read(self._read, 1 << 20))
            assert self._parts[-1], "the browser ended"
        last, _, rest = self._parts[-1].partition(b"\0")
        found: dict[str, Any] = json.loads(b"".join([*self._parts[:-1], last]))
        self._parts = [rest]
        self.events.append(found)
        return found

    def named(self, method: str) -> list[dict[str, Any]]:
        return [event["params"] for event in self.events if event.get("method") == method]


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("no Chromium here")
    to_read, to_write = os.pipe()
    from_read, from_write = os.pipe()
    flags = ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run")
    options = (*flags, "--remote-debugging-pipe", f"--user-data-dir={folder / 'profile'}")
    command = [sys.executable, "-c", ON_3_AND_4, str(to_read), str(from_write), program, *options]
    with subprocess.Popen(command, pass_fds=(to_read, from_write), stderr=subprocess.DEVNULL) as process:
        os.close(to_read)
        os.close(from_write)
        try:
            yield Browser(to_write, from_read)
        finally:
            process.kill()
            os.close(to_write)
            os.close(from_read)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every kind of figure, several sets, and long names."""
    root = tmp_path_factory.mktemp("browser") / "a_folder_with_a_long_name_that_a_phone_cannot_show_in_one_line"
    for size, better in (("debug", 0.0), ("tiny", 0.1)):
        for condition in F1:
            run = fake_run(root, size, condition, better=better)
            if (size, condition) == ("debug", "full"):
                fake_cka(run, against=run)
    for n in (10, 100):
        fake_run(root, "tiny", "full", finetune_samples=n, better=-0.3)
    fake_run(root, "debug", "full", finished=False, seed=4)
    (root / "foreign.json").write_text('{"name": "something else"}')
    written = write_report(root, n_boot=100)
    again = write_report(root, root / "again", n_boot=100)
    assert written.html.read_bytes() == again.html.read_bytes()
    assert written.markdown.read_bytes() == again.markdown.read_bytes()
    assert {name.partition("_")[0] for name in written.figures} >= {"cka", "emergence", "few", "roles", "two"}
    return written.html


def test_in_a_browser(report: Path, tmp_path: Path) -> None:
    with browser(tmp_path) as page:
        for width in WIDTHS:
            size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
            page.call("Emulation.setDeviceMetricsOverride", **size)
            page.open(report.as_uri())
            found = page.call("Runtime.evaluate", expression=LOOK, returnByValue=True)["result"]["value"]
            assert found["room"] == width and found["wide"] <= width, found
            assert not (found["out"] or found["cut"] or found["broken"] or found["split"]), found
            assert found["beside"] is (width > 1200) and found["paper"] == "rgb(255, 255, 255)", found
        page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
        dark = page.call("Runtime.evaluate", expression=LOOK, returnByValue=True)["result"]["value"]
        assert dark["paper"] == "rgb(20, 24, 29)", dark["paper"]
        page.call("Emulation.setEmulatedMedia", features=[])
        pdf = base64.b64decode(page.call("Page.printToPDF", printBackground=True)["data"])
        page.call("Runtime.evaluate", expression="1")
        assert pdf.startswith(b"%PDF") and len(pdf) > 50_000
        (tmp_path / "report.pdf").write_bytes(pdf)
        asked = {event["request"]["url"] for event in page.named("Network.requestWillBeSent")}
        assert {url for url in asked if not url.startswith("data:")} == {report.as_uri()}
        assert page.named("Runtime.exceptionThrown") == [] == page.named("Runtime.consoleAPICalled")
        assert [event["entry"]["text"] for event in page.named("Log.entryAdded")] == []
