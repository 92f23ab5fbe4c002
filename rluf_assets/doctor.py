"""`rluf doctor`: what is installed, what this machine has, whether a home folder can be used, and what to mend.

Every check looks at the real thing: the package is imported (torch in a process of its own, as jobs do), the folder is
written to, the scheduler's own command is asked.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from resources.places import data_folder, locate
from resources.profiles import SETTINGS_FILE, LoggedSettings, Profile, candidate_config, load_candidates, load_profile
from rluf_assets.errors import RlufError
from rluf_assets.feedback.sources import find
from rluf_assets.objectives import REWARDS
from rluf_assets.policy.config import EvaluationConfig, OptimisationConfig

PLANES = {
    "control plane": ("dagster", "polars", "great-expectations", "plotly"),
    "extra train": ("torch", "transformers", "accelerate", "peft"),
    "extra deepspeed": ("deepspeed",),
    "extra vllm": ("vllm",),
}
NEEDED = ("control plane", "extra train")
SCHEDULERS = {"slurm": ("sinfo",), "kubernetes": ("kubectl", "version")}
FREE_GB = 5
BUILD_MINUTES = 20
_TORCH = (
    "import json, torch; print(json.dumps([torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]))"
)


@dataclass(frozen=True)
class Finding:
    """One line of the report: `state` is ok, note (optional part missing) or mend."""

    state: str
    subject: str
    found: str
    remedy: str = ""


def examine(home: Path) -> list[Finding]:
    """All findings for this installation and this home folder; nothing in the home is changed."""
    profile, settings = _settings(home)
    findings = [_python(), *_packages(), _accelerators(), *_stale_builds(), *_schedulers(profile), settings]
    return [*findings, _writable(home), *_models(profile, home), *_sources(profile, home)] if profile else findings


def _python() -> Finding:
    found = ".".join(map(str, sys.version_info[:3]))
    return Finding("ok" if sys.version_info >= (3, 11) else "mend", "Python", found, "use Python 3.11 or newer")


def _packages() -> Iterator[Finding]:
    for plane, names in PLANES.items():
        versions, missing = [], []
        for name in names:
            try:
                versions.append(f"{name} {version(name)}")
            except PackageNotFoundError:
                missing.append(name)
        if not missing:
            yield Finding("ok", plane, ", ".join(versions))
            continue
        extra = plane.removeprefix("extra ")
        remedy = "pip install rluf" if plane == NEEDED[0] else f"pip install 'rluf[{extra}]'"
        yield Finding("mend" if plane in NEEDED else "note", plane, f"missing: {', '.join(missing)}", remedy)


def _accelerators() -> Finding:
    done = subprocess.run([sys.executable, "-c", _TORCH], capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip() or "no output").splitlines()[-1]
        return Finding("mend", "torch", last, "pip install 'rluf[train]'")
    names = json.loads(done.stdout.splitlines()[-1])
    if not names:
        return Finding("note", "GPU", "none that torch sees", "profiles tiny and laptop need none")
    return Finding("ok", "GPU", ", ".join(names))


def _stale_builds() -> Iterator[Finding]:
    """Locks of builds that a kill cut short: every later job would wait for one, and say nothing."""
    cache = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or Path.home() / ".cache" / "torch_extensions")
    for lock in sorted(cache.glob("**/lock")):
        minutes = (time.time() - lock.stat().st_mtime) / 60
        if minutes > BUILD_MINUTES:
            yield Finding(
                "mend", "DeepSpeed's build", f"{lock} is {minutes:.0f} minutes old", "remove it: jobs wait for it"
            )


def _schedulers(profile: Profile | None) -> Iterator[Finding]:
    """Each scheduler asked by its own command; one that does not answer is to be mended if the profile uses it."""
    used = {settings.kind for settings in (profile.launcher, *profile.launchers.values())} if profile else set()
    for kind, command in SCHEDULERS.items():
        broken = "mend" if kind in used else "note"
        if shutil.which(command[0]) is None:
            yield Finding(broken, kind, f"no {command[0]} here", "needed where a profile's launcher is of this kind")
            continue
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
        text = (done.stderr if done.returncode else done.stdout).strip().splitlines() or ["no answer"]
        found, asked = (text[-1], broken) if done.returncode else (text[0], "ok")
        yield Finding(
            asked, kind, found, f"`{' '.join(command)}` must succeed where a profile's launcher is of this kind"
        )


def _settings(home: Path) -> tuple[Profile | None, Finding]:
    if not (home / SETTINGS_FILE).exists():
        remedy = f"rluf init {home}, or rluf demo --home {home}"
        return None, Finding("note", "settings", f"{home} holds no {SETTINGS_FILE}", remedy)
    try:
        profile, candidates = load_profile(home), load_candidates(home)
    except RlufError as error:
        return None, Finding("mend", "settings", str(error), f"edit {home / SETTINGS_FILE}")
    return profile, Finding("ok", "settings", f"profile {profile.profile}, candidates {', '.join(candidates)}")


def _writable(home: Path) -> Finding:
    try:
        with tempfile.TemporaryFile(dir=home):
            free_gb = shutil.disk_usage(home).free / 2**30
    except OSError as error:
        return Finding("mend", "lake", f"{home} is not writable ({error.strerror})", "change its owner or name another")
    state = "ok" if free_gb >= FREE_GB else "mend"
    return Finding(state, "lake", f"writable, {free_gb:.0f} GB free", f"free at least {FREE_GB} GB")


def _models(profile: Profile, home: Path) -> Iterator[Finding]:
    """The models given by path: the base policy, and what reward models start from."""
    named = {"base policy": ("base_policy.checkpoint", profile.base_policy.checkpoint)}
    named |= {name: (f"{name}.base", getattr(profile, name).base) for name in REWARDS.values()}
    for model, (setting, given) in named.items():
        if given is None:
            continue
        try:
            folder = locate(given, data_folder(profile, home))
        except RlufError as error:
            yield Finding("mend", model, str(error), f"mend {setting}")
            continue
        problem = None if (Path(folder) / "config.json").exists() else f"no config.json under {folder}"
        if problem is None and model == "base policy":
            problem = _unfit(folder, profile, home)
        yield Finding("mend" if problem else "ok", model, problem or given, f"mend {setting}")


def _unfit(folder: str, profile: Profile, home: Path) -> str | None:
    """What a checkpoint's config and tokenizer say against it as a policy, before a job takes it over."""
    try:
        from rluf_assets.policy.base import check_checkpoint

        candidates = (candidate_config(home, name, profile.crraft_policy) for name in load_candidates(home))
        uses: tuple[EvaluationConfig | OptimisationConfig, ...] = (profile.offline_evaluation, *candidates)
        check_checkpoint(
            folder,
            shares_prompts=any(use.engine == "transformers" for use in uses),
            max_new_tokens=max(use.max_new_tokens for use in uses),
        )
    except RlufError as error:
        return str(error)
    except ImportError:
        return None  # the extra that reads it is missing, which has a line of its own
    return None


def _sources(profile: Profile, home: Path) -> Iterator[Finding]:
    """The files of a logged production: those of its first day, and the expert pairs."""
    production = profile.production
    if not isinstance(production, LoggedSettings):
        return
    named = {"messages": production.messages, "reactions": production.reactions, **production.preferences}
    for name, source in named.items():
        place = locate(source.replace("{day}", profile.first_day), data_folder(profile, home))
        files = len(find(place))
        found = f"{files} files at {place}" if files != 1 else place
        yield Finding("ok" if files else "note", name, found, f"bring them, or mend production in {SETTINGS_FILE}")
