"""The Dagster UI as a person uses it: real Chromium, a real `rluf ui`, on a copy of the finished tiny demo.

`make screenshots` runs this with RLUF_SCREENSHOTS naming docs/images, where the pictures of README and docs are kept.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from rluf_assets.demo import DAGSTER_YAML
from tests.ui.browser import chromium
from tests.ui.server import BAD_DAY, COPY, add_candidate, plant_bad_day, running_ui

pytestmark = pytest.mark.slow
WAIT_MS = 300_000  # a busy machine; nothing here waits for a fixed time
PICTURE_LIMIT = 300_000
GRAPH_HEIGHT = 1180


@pytest.fixture(scope="module")
def home(tiny_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy with one candidate more, and with a useless last day in the source that nobody has read yet."""
    copy = tmp_path_factory.mktemp("ui") / "home"
    shutil.copytree(tiny_home, copy)
    (copy / "dagster" / "dagster.yaml").write_text(DAGSTER_YAML)
    add_candidate(copy)
    plant_bad_day(copy)
    return copy


@pytest.fixture(scope="module")
def address(home: Path) -> Iterator[str]:
    with running_ui(home) as found:
        yield found


@pytest.fixture
def page(address: str) -> Iterator[Page]:
    with chromium() as browser:
        context = browser.new_context(base_url=address, viewport={"width": 1440, "height": 900})
        context.set_default_timeout(WAIT_MS)
        expect.set_options(timeout=WAIT_MS)
        yield context.new_page()


def picture(page: Page, name: str, tmp_path: Path, *, height: int = 900, settle_s: float = 1.5) -> None:
    """Keep the upper part of what is on the screen where RLUF_SCREENSHOTS says, else beside the test."""
    kept = Path(os.environ.get("RLUF_SCREENSHOTS", tmp_path)) / f"{name}.png"
    if "RLUF_SCREENSHOTS" in os.environ:
        page.wait_for_timeout(settle_s * 1000)  # for animations, and states that come late; no assertion waits on it
    page.screenshot(path=kept, clip={"x": 0, "y": 0, "width": 1440, "height": height})
    assert 10_000 < kept.stat().st_size < PICTURE_LIMIT, f"{kept}: {kept.stat().st_size} bytes"


def materialise(page: Page, asset: str) -> None:
    """Press the button on an asset's page, which has no partitions, and go to the run."""
    page.goto(f"/assets/{asset}")
    page.get_by_role("button", name="Materialize").first.click()
    page.get_by_text("Launched run").first.wait_for()
    page.get_by_text("View", exact=True).first.click()


def launch(page: Page, asset: str, which: str) -> None:
    """Open the dialog of a partitioned asset, choose partitions by its button, launch, and go to what was launched."""
    page.goto(f"/assets/{asset}?view=partitions")
    page.get_by_role("button", name="Materialize").first.click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name=which, exact=True).click()
    expect(dialog.get_by_text("1 partition", exact=True)).to_be_visible()
    dialog.get_by_role("button", name=re.compile("^Launch")).click()
    page.get_by_text(re.compile("^Launched")).first.wait_for()


def page_link(page: Page, partition: str, name: str) -> Locator:
    """The link to an HTML page of an artifact."""
    return page.locator(f"a[href*='/lake/{partition}/'][href$='/{name}.html']").first


def state(page: Page, text: str) -> Locator:
    """A run's state, as its page shows it."""
    return page.get_by_text(text, exact=True).first


def test_the_graph_is_seen_whole(page: Page, tmp_path: Path) -> None:
    page.goto("/asset-groups")
    for group in ("reaction_logs", "signals", "reward_models", "policy", "evaluation"):
        expect(page.get_by_text(group).first).to_be_visible()
    page.set_viewport_size({"width": 1440, "height": GRAPH_HEIGHT})  # room for the graph: its names are to be read
    page.locator("button:has([aria-label='panel_show_right'])").last.click()
    page.get_by_text("Hide navigation").click()
    page.keyboard.press("Alt+e")  # expand all groups
    for asset in ("raw_reactions", "signal_audit", "p_love", "crraft_policy", "released_policy"):
        expect(page.get_by_text(asset).first).to_be_visible()
    picture(page, "graph", tmp_path, height=GRAPH_HEIGHT, settle_s=15)


def test_an_asset_is_materialised_and_its_report_opened(page: Page, tmp_path: Path) -> None:
    page.goto("/assets/signal_audit")
    expect(page.get_by_text("One row per candidate signal").first).to_be_visible()
    materialise(page, "signal_audit")
    expect(state(page, "Success")).to_be_visible()
    page.mouse.move(720, 5)  # the notice that it was launched stays while the mouse is on it
    expect(page.get_by_text("Launched run")).to_be_hidden()
    picture(page, "run", tmp_path)

    page.goto("/assets/signal_audit?view=events")
    link = page_link(page, "signal_audit/_", "report")
    expect(page.get_by_text("conclusion", exact=True).first).to_be_visible()
    picture(page, "metadata", tmp_path)
    with page.context.expect_page() as opened:
        link.click()
    report = opened.value
    expect(report.get_by_text("thumbs_up").first).to_be_visible()
    picture(report, "signal-audit", tmp_path)


def test_its_checks_are_read(page: Page) -> None:
    materialise(page, "signal_set")
    expect(state(page, "Success")).to_be_visible()
    page.goto("/assets/signal_set/?view=checks")
    expect(page.get_by_text("Checks (11)")).to_be_visible()
    page.get_by_text("users_disjoint").first.click()
    expect(page.get_by_text("observed", exact=True).first).to_be_visible()
    expect(page.get_by_text("expected", exact=True).first).to_be_visible()


def test_a_bad_day_fails_its_check_and_leads_to_the_quarantine(page: Page, home: Path, tmp_path: Path) -> None:
    pointer = home / "lake" / "raw_messages" / BAD_DAY / "current.json"
    before = pointer.read_text()
    launch(page, "raw_messages", "Latest")
    deadline = time.monotonic() + WAIT_MS / 1000
    while pointer.read_text() == before:  # the page showed the day as made before, and does so all the time
        assert time.monotonic() < deadline, "raw_messages was not read again"
        page.wait_for_timeout(500)
    launch(page, "validated_replies", "Latest")
    page.goto("/assets/validated_replies?view=checks&checkDetail=not_all_quarantined")
    link = page_link(page, f"validated_replies/{BAD_DAY}", "quarantine")
    expect(link).to_be_visible()
    expect(page.get_by_text("Failed").first).to_be_visible()
    picture(page, "failed-check", tmp_path)
    with page.context.expect_page() as opened:
        link.click()
    quarantine = opened.value
    expect(quarantine.get_by_text("empty_text").first).to_be_visible()
    picture(quarantine, "quarantine", tmp_path)


def test_one_candidate_is_materialised(page: Page, home: Path, tmp_path: Path) -> None:
    """The last test: the automation goes on with this candidate's evaluation, until the UI ends."""
    launch(page, "crraft_policy", "Missing")
    page.goto(f"/assets/crraft_policy?view=partitions&partition={COPY}")
    expect(page.get_by_text("Materialized (5)")).to_be_visible()
    expect(page.get_by_text("Missing (0)")).to_be_visible()
    page.reload()
    expect(page.get_by_text("rows: iterations")).to_be_visible()
    page.get_by_text("moderate", exact=True).first.click()
    expect(page.get_by_text("rows: iterations")).to_be_visible()
    picture(page, "candidates", tmp_path, height=720)
    assert (home / "lake" / "crraft_policy" / COPY / "current.json").exists()
