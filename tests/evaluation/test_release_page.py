"""The release page in a real Chromium, on a phone and on a desk: plots drawn, a silent console, nothing too wide."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, ViewportSize

from rluf_assets.evaluation.config import BoundPlan, ReleaseConfig
from rluf_assets.evaluation.release_inputs import ReleaseFolders, make_release
from rluf_assets.evaluation.report import render_report
from tests.evaluation.world import plan_of, write_release_inputs
from tests.ui.browser import chromium

pytestmark = pytest.mark.slow
WAIT_MS = 60_000
PAGE_LIMIT = 5_000_000
CONFIG = ReleaseConfig(
    resamples=200, plan=plan_of(2000), bound={n: BoundPlan(plan=plan_of(2000).hash) for n in ("moderate", "aggressive")}
)
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
        CONFIG,
        seed=0,
    )  # fmt: skip
    path = root / "report.html"
    path.write_text(render_report(release.data, CONFIG), encoding="utf-8")
    return path


@pytest.fixture
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


def drawn(browser: Browser, page: Path, width: int) -> tuple[Page, list[str]]:
    """The page opened without a network, `width` pixels wide, its plots drawn; what an open console would show as wrong."""
    viewport: ViewportSize = {"width": width, "height": 900}
    tab = browser.new_context(viewport=viewport, is_mobile=width < 500, offline=True).new_page()
    problems: list[str] = []
    tab.on("pageerror", lambda error: problems.append(str(error)))
    tab.on("console", lambda told: problems.append(told.text) if told.type in ("error", "warning") else None)
    tab.goto(page.as_uri())
    tab.wait_for_function("document.documentElement.dataset.plots === 'drawn'", timeout=WAIT_MS)
    return tab, problems


def kept(name: str, tmp_path: Path) -> Path:
    """Where a picture goes: where RLUF_SCREENSHOTS says, else beside the test."""
    return Path(os.environ.get("RLUF_SCREENSHOTS", tmp_path)) / name


@pytest.mark.parametrize("width", [390, 1200])
def test_page_loads_offline_and_draws(page: Path, browser: Browser, tmp_path: Path, width: int) -> None:
    tab, problems = drawn(browser, page, width)
    assert problems == []
    assert tab.evaluate("[...document.querySelectorAll('[data-figure]')].every(p => p.querySelector('.main-svg'))")
    assert tab.evaluate("document.querySelectorAll('[data-figure]').length") == 8
    assert tab.evaluate("[...document.querySelectorAll('[data-figure]')].every(p => p.ariaLabel.length > 20)")
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert not tab.evaluate("/\\bNaN\\b|undefined|\\bnull\\b/.test(document.body.innerText)")
    assert page.stat().st_size < PAGE_LIMIT
    assert len(tab.screenshot(path=kept(f"release-report-{width}.png", tmp_path), full_page=True)) > 20_000


def test_printed_it_fits_the_paper(page: Path, browser: Browser, tmp_path: Path) -> None:
    tab, _ = drawn(browser, page, 1200)
    tab.emulate_media(media="print")
    tab.set_viewport_size({"width": PAPER_PX, "height": 1000})
    tab.evaluate("dispatchEvent(new Event('beforeprint'))")
    found = "[...document.querySelectorAll('table, .main-svg')].filter(e => e.getBoundingClientRect().right > innerWidth + 1)"
    too_wide = f"{found}.map(e => e.getBoundingClientRect().right + ' ' + e.textContent.trim().slice(0, 60)).join('|')"
    assert tab.evaluate(too_wide) == ""
    hidden = (
        "[...document.querySelectorAll('details table')].filter(t => !t.checkVisibility({contentVisibilityAuto: true}))"
    )
    assert tab.evaluate(f"{hidden}.length") == 0, "paper cannot be clicked open"
    printed = tab.pdf(path=kept("release-report.pdf", tmp_path), prefer_css_page_size=True)
    assert printed.startswith(b"%PDF")
    assert len(printed) > 50_000
