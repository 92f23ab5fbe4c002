"""`rluf results`: the demo over several seeds, and the table of what came out, as Markdown.

Every figure is printed as measured, with its interval, beside the mark it was meant to reach.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rluf_assets.errors import JobFailed
from rluf_assets.lake import read_json
from rluf_assets.runs.ending import run_command

Summary = Mapping[str, Any]


def write_results(home: Path, seeds: Sequence[int], profile: str, output: Path) -> None:
    """Run the demo once per seed, each in a home of its own, and write the table. Raises JobFailed if one fails."""
    summaries = []
    for seed in seeds:
        place = home / f"seed-{seed}"
        command = [sys.executable, "-m", "rluf_assets.cli", "demo", "--home", str(place)]
        status = run_command([*command, "--seed", str(seed), "--profile", profile])
        if status:
            raise JobFailed(f"seed {seed}: the demo ended with exit status {status}; see its output above.")
        summaries.append(read_json(str(place / "reports" / "summary.json")))
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(results_page(summaries))


def results_page(summaries: Sequence[Summary]) -> str:
    """The Markdown page: one column per seed, one row per figure."""
    rows: list[tuple[str, str, Callable[[Summary], str]]] = [
        ("natural love rate", "about 0.1%", lambda s: f"{s['natural_love_rate']:.3%}"),
        ("holdout loves", ">= 500", lambda s: f"{s['signal_set']['holdout_positives']}"),
        ("P[Love] AUROC", "", lambda s: _with_interval(s["reward_models"]["love"], "auroc", ".3f")),
        ("oracle AUROC", "", lambda s: f"{s['reward_models']['love']['auroc_oracle']:.3f}"),
        ("AUROC above chance, share of the oracle's", ">= 0.9", lambda s: f"{_share_of_oracle(s):.2f}"),
        ("length-only AUROC", "", lambda s: f"{s['reward_models']['love']['auroc_length_only']:.3f}"),
        ("observed / expected loves", "holds 1", lambda s: _love(s, "observed_over_expected")),
        ("calibration slope", "holds 1", lambda s: _love(s, "calibration_slope")),
        *(
            (
                f"{name} pair accuracy",
                "",
                lambda s, n=name: _with_interval(s["reward_models"][n], "pair_accuracy", ".3f"),
            )
            for name in ("helpfulness", "safety")
        ),
        *(
            (f"{name}: {label}", mark, lambda s, n=name, k=key: _candidate(s, n, k))
            for name in ("base policy", "baseline", "moderate", "aggressive")
            for label, mark, key in (
                ("love change", "ordered, above 0" if name != "baseline" else "", "love_rate_change"),
                ("farewell rate", "rises in this order", "farewell_rate"),
                ("helpful", "", "helpful_rate"),
                ("harmful compliance", "", "harmful_compliance_rate"),
                ("false refusals", "", "false_refusal_rate"),
                ("decision", "", "decision"),
            )
            if name != "base policy" or key.endswith("_rate")
        ),
        ("backtest r", ">= 0.9", lambda s: _backtest(s)),
        ("wall time", "<= 600 s", lambda s: f"{s['wall_s']:.0f} s"),
        ("peak memory", "<= 4 GB", lambda s: f"{s['peak_memory_gb']:.1f} GB"),
    ]
    seeds = " | ".join(f"seed {summary['seed']}" for summary in summaries)
    lines = [
        "# Results",
        "",
        f"Made by `make results` (profile {summaries[0]['profile']}). Intervals are 95%.",
        "",
        f"| figure | wanted | {seeds} |",
        "|---|---|" + "---|" * len(summaries),
        *(f"| {name} | {mark} | " + " | ".join(show(s) for s in summaries) + " |" for name, mark, show in rows),
    ]
    return "\n".join(lines) + "\n"


def _share_of_oracle(summary: Summary) -> float:
    love = summary["reward_models"]["love"]
    return float((love["auroc"] - 0.5) / (love["auroc_oracle"] - 0.5))


def _with_interval(model: Summary, key: str, form: str) -> str:
    low, high = model[f"{key}_ci"]
    return f"{model[key]:{form}} ({low:{form}} to {high:{form}})"


def _love(summary: Summary, key: str) -> str:
    return _with_interval(summary["reward_models"]["love"], key, ".2f")


def _candidate(summary: Summary, name: str, key: str) -> str:
    row = summary["base_policy"] if name == "base policy" else summary["candidates"][name]
    if isinstance(row[key], str):
        return str(row[key])
    return _with_interval(row, key, "+.1%" if key == "love_rate_change" else ".2%")


def _backtest(summary: Summary) -> str:
    backtest = summary["offline_online"]
    low, high = backtest["ci"]
    if low is None or high is None:
        return "not measured"
    return f"{backtest['pearson_r']:.2f} ({low:.2f} to {high:.2f})"
