"""The release page in a real Chromium, on a phone and on a desk: plots drawn, a silent console, nothing too wide."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

from rluf_assets.evaluation.config import ReleaseConfig
from rluf_assets.evaluation.release_inputs import ReleaseFolders, make_release
from rluf_assets.evaluation.report import render_report
from tests.evaluation.world import write_release_inputs

pytestmark = pytest.mark.slow
WAIT_S = 60
PAGE_LIMIT = 5_000_000
PAPER_PX = 720  # what A4 leaves between its margins, at 96 px an inch


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("page")
    folders = write_release_inputs(root, prompts=120, users=2000)

    def of(asset: str) -> dict[str, Path]:
        return {k.split("/")[1]: v for k, v in folders.items() if k.startswith(f"{asset}/")}

    release = make_release(
        ReleaseFolders(
            of("offline_evaluation"), of("ab_exposures"), of("rewards"), folders["reward_hacking_audit"],
            folders["ab_test_readout"], folders["offline_online_backtest"], folders["signal_set"],
        ),
        ReleaseConfig(resamples=200),
        seed=0,
    )  # fmt: skip
    path = root / "report.html"
    path.write_text(render_report(release.data, ReleaseConfig()), encoding="utf-8")
    return path


class Browser:
    """A tab of headless Chromium, spoken to over its DevTools socket."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket, self.sent, self.problems = socket, 0, []

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self.sent += 1
        self.socket.send(json.dumps({"id": self.sent, "method": method, "params": params}))
        while True:
            message = json.loads(self.socket.recv(timeout=WAIT_S))
            if message.get("id") == self.sent:
                return message["result"]
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        """Remember what a reader with an open console would see as an error."""
        params = message.get("params", {})
        if message.get("method") == "Runtime.exceptionThrown":
            self.problems.append(params["exceptionDetails"]["text"])
        elif message.get("method") == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.problems.append(params["entry"]["text"])
        elif message.get("method") == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            self.problems.append(str(params["args"]))

    def evaluate(self, expression: str) -> Any:
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    binary = shutil.which("chromium") or shutil.which("google-chrome")
    if binary is None:
        pytest.fail("chromium is not installed, and this tier needs it: apt-get install chromium")
    profile = tmp_path / "profile"
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
    process = subprocess.Popen(
        [binary, *options, "--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        with connect(_tab(profile / "DevToolsActivePort"), max_size=None) as socket:
            yield Browser(socket)
    finally:
        process.terminate()
        process.wait(timeout=30)


def _tab(port_file: Path) -> str:
    """Address of the first tab's socket, once Chromium has written its port."""
    import urllib.request

    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        if port_file.exists() and port_file.read_text().strip():
            port = port_file.read_text().split()[0]
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list") as answer:
                tabs = [t for t in json.load(answer) if t["type"] == "page"]
            if tabs:
                return str(tabs[0]["webSocketDebuggerUrl"])
        time.sleep(0.1)
    raise TimeoutError("chromium opened no debugging port")


def drawn(browser: Browser, page: Path, width: int) -> None:
    """Open the page without a network, `width` pixels wide, and wait until its plots are drawn."""
    for domain in ("Runtime", "Log", "Page", "Network"):
        browser.call(f"{domain}.enable")
    browser.call("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0)
    browser.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 500)
    browser.call("Page.navigate", url=page.as_uri())
    deadline = time.monotonic() + WAIT_S
    while browser.evaluate("document.documentElement.dataset.plots") != "drawn":
        assert time.monotonic() < deadline, f"plots were not drawn within {WAIT_S} s: {browser.problems}"
        time.sleep(0.1)


def keep(name: str, data: str, tmp_path: Path) -> Path:
    """Write what the browser gave (base64) where RLUF_SCREENSHOTS says, else beside the test."""
    kept = Path(os.environ.get("RLUF_SCREENSHOTS", tmp_path)) / name
    kept.write_bytes(base64.b64decode(data))
    return kept


@pytest.mark.parametrize("width", [390, 1200])
def test_page_loads_offline_and_draws(page: Path, browser: Browser, tmp_path: Path, width: int) -> None:
    drawn(browser, page, width)
    assert browser.problems == []
    assert browser.evaluate("[...document.querySelectorAll('[data-figure]')].every(p => p.querySelector('.main-svg'))")
    assert browser.evaluate("document.querySelectorAll('[data-figure]').length") == 8
    assert browser.evaluate("[...document.querySelectorAll('[data-figure]')].every(p => p.ariaLabel.length > 20)")
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert not browser.evaluate("/\\bNaN\\b|undefined|\\bnull\\b/.test(document.body.innerText)")
    assert page.stat().st_size < PAGE_LIMIT
    shot = browser.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
    assert keep(f"release-report-{width}.png", shot, tmp_path).stat().st_size > 20_000


def test_printed_it_fits_the_paper(page: Path, browser: Browser, tmp_path: Path) -> None:
    drawn(browser, page, 1200)
    browser.call("Emulation.setEmulatedMedia", media="print")
    browser.call("Emulation.setDeviceMetricsOverride", width=PAPER_PX, height=1000, deviceScaleFactor=1, mobile=False)
    browser.evaluate("dispatchEvent(new Event('beforeprint'))")
    found = "[...document.querySelectorAll('table, .main-svg')].filter(e => e.getBoundingClientRect().right > innerWidth + 1)"
    too_wide = f"{found}.map(e => e.getBoundingClientRect().right + ' ' + e.textContent.trim().slice(0, 60)).join('|')"
    assert browser.evaluate(too_wide) == ""
    hidden = (
        "[...document.querySelectorAll('details table')].filter(t => !t.checkVisibility({contentVisibilityAuto: true}))"
    )
    assert browser.evaluate(f"{hidden}.length") == 0, "paper cannot be clicked open"
    printed = keep("release-report.pdf", browser.call("Page.printToPDF", preferCSSPageSize=True)["data"], tmp_path)
    assert printed.read_bytes().startswith(b"%PDF")
    assert printed.stat().st_size > 50_000
