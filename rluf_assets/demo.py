"""`rluf run` and `rluf demo`: run the whole graph through Dagster, print one table and the path of one page.

`demo` first makes a home folder whose production is simulated; `run` takes any home, of one's own logs too.

Everything lies under one home folder: `lake/` (artifacts), `dagster/` (the instance the UI opens), `reports/`
(index.html, summary.json), `rluf.yaml` and `candidates.yaml` (what people edit). A second run reuses every artifact
whose fingerprint is unchanged. What happens to be written to the terminal is only a view: the runs are Dagster's.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import dagster as dg
import psutil
import yaml
from rich.console import Console
from rich.markup import escape

from resources.pages import serve_pages
from resources.profiles import CANDIDATES_FILE, SETTINGS_FILE, load_profile, packaged
from rluf_assets.alive import canceled_if_ended, end_dead_runs
from rluf_assets.errors import ConfigError, JobFailed
from rluf_assets.growing import one_more_day, set_days
from rluf_assets.lake import read_json, write_json
from rluf_assets.materialise import Outcome, Unit, quiet_environment, run_units
from rluf_assets.runs.current import Asker
from rluf_assets.runs.display import Display, headlines
from rluf_assets.runs.ending import run_command
from rluf_assets.runs.selection import only, selected, up_to
from rluf_assets.summary import print_table, write_summary

HOME_VARIABLE = "RLUF_HOME"
WORKERS = 2  # two single-thread jobs side by side beat one job with two threads

DAGSTER_YAML = """telemetry:
  enabled: false
# No dialog about newsletters before the graph.
nux:
  enabled: false
# Whether assets are as fresh as their policies ask is evaluated by the daemon that `rluf ui` runs.
freshness:
  enabled: true
# A run whose process died (not one that failed by an error of its own) is started again, and goes on where it was.
run_retries:
  enabled: true
  max_retries: 2
  retry_on_asset_or_op_failure: false
run_monitoring:
  enabled: true
  poll_interval_seconds: 30
# Dagster's own, which also knows when the process of a run is gone together with the code server that started it.
run_launcher:
  module: rluf_assets.alive
  class: RunLauncher
"""


def demo(
    home: Path,
    *,
    seed: int = 0,
    profile: str = "laptop",
    days: int | None = None,
    then_day: bool = False,
    console: Console | None = None,
) -> Path:
    """Run the loop and return the path of summary.json.

    `days`: on the first days only. `then_day`: one more day arrives then, and `rluf update` tells what follows from it.
    Raises ConfigError (unknown profile, unwritable home), JobFailed when an asset crashes or a blocking data check
    fails. A hold verdict is a result, not an error.
    """
    prepare_home(home, seed=seed, profile=profile)
    if days is not None:
        set_days(home, days)
    summary = run(home, console=console)
    if then_day:
        one_more_day(home, console or Console())
    return summary


def run(home: Path, *, console: Console | None = None) -> Path:
    """Bring the whole graph of a home folder up to date and return the path of summary.json.

    Raises ConfigError where the home holds no settings, JobFailed as `demo` does.
    """
    started, console = time.monotonic(), _begin(home, console)
    with MemoryWatch() as memory:
        materialise(home, console)
        from rluf_assets.partitions import retain

        if told := retain(home):
            console.print(escape(told))
        summary = write_summary(home)
    figures = read_json(str(summary))
    figures |= {"wall_s": round(time.monotonic() - started, 1), "peak_memory_gb": round(memory.peak_gb, 2)}
    write_json(str(summary), figures)
    print_table(figures, console)
    console.print(f"\n[bold]Read the page:[/bold] {summary.parent / 'index.html'}")
    console.print(f"Open the graph: rluf ui --home {home}")
    return summary


def run_part(
    home: Path, *, select: str | None = None, until: str | None = None, console: Console | None = None
) -> None:
    """Bring a part of the graph up to date: `select` in Dagster's syntax, `until` an asset with all that it is made from.

    The summary and its page stay as the last run of the whole graph wrote them. Raises as `run` does, and ConfigError for
    an asset that is not there.
    """
    if (select is None) == (until is None):
        raise ConfigError("--select, --until: expected one of them. '--until NAME' is '--select +NAME'.")
    console = _begin(home, console)
    materialise(home, console, up_to(until) if until is not None else select)
    console.print("A part of the graph is up to date; the summary and its page are written by a run of all of it.")


def _begin(home: Path, console: Console | None) -> Console:
    """Make sure of the home, and say what is about to be run."""
    require_home(home)
    make_folders(home)
    # A pipe has no width; the table needs a little more than rich's 80 columns.
    console = console or Console(width=None if sys.stdout.isatty() else 100)
    settings = load_profile(home)
    quiet_environment()
    console.print(f"[bold]RLUF[/bold]: profile {settings.profile}, seed {settings.seed}, home {home}")
    return console


def prepare_home(home: Path, *, seed: int, profile: str) -> None:
    """Create the home folder with its settings, candidates and Dagster instance; keep what people edited.

    Raises ConfigError if the folder cannot be written or the profile is unknown.
    """
    packaged(profile)  # an unknown profile is refused before anything is written
    try:
        home.mkdir(parents=True, exist_ok=True)
        settings_file = home / SETTINGS_FILE
        settings = yaml.safe_load(settings_file.read_text()) if settings_file.exists() else {}
        settings_file.write_text(yaml.safe_dump({**settings, "profile": profile, "seed": seed}, sort_keys=False))
    except OSError as error:
        raise _not_writable(home, error) from error
    make_folders(home)
    load_profile(home)


def make_folders(home: Path) -> None:
    """What a home needs beside its settings: folders, candidates, a Dagster instance. Raises ConfigError as above."""
    try:
        for folder in ("dagster", "lake", "reports"):
            (home / folder).mkdir(parents=True, exist_ok=True)
        if not (home / CANDIDATES_FILE).exists():
            shutil.copy(Path(str(packaged("candidates"))), home / CANDIDATES_FILE)
        if not (home / "dagster" / "dagster.yaml").exists():
            (home / "dagster" / "dagster.yaml").write_text(DAGSTER_YAML)
    except OSError as error:
        raise _not_writable(home, error) from error


def require_home(home: Path) -> None:
    """Raise ConfigError unless the folder holds settings."""
    if not (home / SETTINGS_FILE).exists():
        raise ConfigError(
            f"home folder {home}: holds no {SETTINGS_FILE}. Make it with: rluf init {home}, or rluf demo --home {home}"
        )


def _not_writable(home: Path, error: OSError) -> ConfigError:
    return ConfigError(f"home folder {home}: not writable ({error.strerror}). Name another one with --home DIR.")


def load_code_location(home: Path) -> dg.Definitions:
    """The definitions of one home folder as its settings are now; its Dagster instance is this process's from here on."""
    from rluf_assets.definitions import build_definitions

    os.environ["DAGSTER_HOME"] = str((home / "dagster").resolve())
    return build_definitions(home)


def materialise(home: Path, console: Console, select: str | None = None) -> Mapping[Unit, Outcome]:
    """Bring every asset and partition of the graph, or of the selected part, up to date, with a live display.

    Raises JobFailed if a run failed or a blocking check did; whatever was not downstream of it has been done.
    """
    defs = load_code_location(home)
    from rluf_assets.partitions import register_candidates
    from rluf_assets.units import all_units

    with dg.DagsterInstance.get() as instance:
        register_candidates(home, instance)
        end_dead_runs(instance)
        units = all_units(home) if select is None else only(all_units(home), selected(defs, select))
        asker = Asker(defs, instance, home)
        with canceled_if_ended(instance), Display(console, home) as display:
            outcomes = run_units(defs, units, home=home, workers=WORKERS, on_change=display.show, ask=asker.unit)
    if any(outcome.state == "failed" for outcome in outcomes.values()):
        raise JobFailed(f"the run stopped: {headlines(outcomes)}")
    return outcomes


def open_ui(home: Path, host: str, port: int) -> None:
    """Serve the Dagster UI for a home folder, and the pages that it links, until interrupted.

    Raises ConfigError where there is no such home, or the port of its pages is taken; JobFailed where Dagster ends by itself.
    """
    require_home(home)
    make_folders(home)
    load_code_location(home)
    from rluf_assets.partitions import register_candidates

    with dg.DagsterInstance.get() as instance:
        register_candidates(home, instance)
        end_dead_runs(instance)
    environment = {
        **os.environ,
        HOME_VARIABLE: str(home.resolve()),
        "DAGSTER_HOME": str((home / "dagster").resolve()),
        "DAGSTER_DISABLE_TELEMETRY": "yes",
    }
    command = ["dagster", "dev", "-m", "rluf_assets.definitions", "--host", host, "--port", str(port)]
    with serve_pages(home, load_profile(home).pages_url) as pages:
        print(
            f"Dagster: http://{host}:{port}" + (f"   reports: {pages}/reports/index.html" if pages else ""), flush=True
        )
        status = run_command([sys.executable, "-m", *command], environment)
    if status > 0:
        raise JobFailed(
            f"Dagster ended by itself (exit status {status}), see above. Start it again, nothing is lost: rluf ui --home {home}"
        )


class MemoryWatch:
    """Samples the memory of this process and its children; `peak_gb` is the largest sum seen.

    Where the system tells (Linux), a page that processes share counts once; elsewhere once per process.
    """

    def __init__(self, interval_s: float = 0.5) -> None:
        self.peak_gb = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, args=(interval_s,), daemon=True)

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self, interval_s: float) -> None:
        this = psutil.Process()
        while not self._stop.wait(interval_s):
            processes = [this, *this.children(recursive=True)]
            # Telling shared pages apart is slow, and never gives more than counting them in every process.
            if _total_gb(processes, lambda process: process.memory_info().rss) > self.peak_gb:
                self.peak_gb = max(self.peak_gb, _total_gb(processes, _proportional_bytes))


def _total_gb(processes: Sequence[psutil.Process], measure: Callable[[psutil.Process], int]) -> float:
    total = 0
    for process in processes:
        with suppress(psutil.Error):
            total += measure(process)
    return total / 2**30


def _proportional_bytes(process: psutil.Process) -> int:
    memory = process.memory_full_info()
    return int(getattr(memory, "pss", memory.rss))
