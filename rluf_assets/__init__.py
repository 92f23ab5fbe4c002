"""RLUF toolkit: from users' reactions to a release decision.

    import rluf_assets as rluf

    rluf.open_home()            # what a home folder holds, stage by stage

Each stage is a plain function with a config and a result; a job of the graph is that function behind a JSON config:

    read_logs -> audit_signals, build_signal_set -> train_base_policy, train_reward -> optimise_policy
              -> audit_reward_hacking, read_out -> decide

Names load on first use: importing this package is instant and needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rluf_assets.errors import RlufError as RlufError
    from rluf_assets.evaluation.config import HackingAuditConfig as HackingAuditConfig
    from rluf_assets.evaluation.config import ReadoutConfig as ReadoutConfig
    from rluf_assets.evaluation.config import ReleaseConfig as ReleaseConfig
    from rluf_assets.evaluation.hacking import HackingAudit as HackingAudit
    from rluf_assets.evaluation.hacking import audit_reward_hacking as audit_reward_hacking
    from rluf_assets.evaluation.readout import Readout as Readout
    from rluf_assets.evaluation.readout import read_out as read_out
    from rluf_assets.evaluation.release import Decisions as Decisions
    from rluf_assets.evaluation.release import decide as decide
    from rluf_assets.feedback.audit import audit_signals as audit_signals
    from rluf_assets.feedback.audit_report import SignalAudit as SignalAudit
    from rluf_assets.feedback.config import ContractConfig as ContractConfig
    from rluf_assets.feedback.config import SignalAuditConfig as SignalAuditConfig
    from rluf_assets.feedback.config import SignalSetConfig as SignalSetConfig
    from rluf_assets.feedback.files import read_logs as read_logs
    from rluf_assets.feedback.signal_set import SignalSet as SignalSet
    from rluf_assets.feedback.signal_set import build_signal_set as build_signal_set
    from rluf_assets.home import Home as Home
    from rluf_assets.home import open_home as open_home
    from rluf_assets.policy.base import train_base_policy as train_base_policy
    from rluf_assets.policy.config import BasePolicyConfig as BasePolicyConfig
    from rluf_assets.policy.config import OptimisationConfig as OptimisationConfig
    from rluf_assets.policy.loop import optimise_policy as optimise_policy
    from rluf_assets.policy.optimised import OptimisedPolicy as OptimisedPolicy
    from rluf_assets.rewards.config import RewardConfig as RewardConfig
    from rluf_assets.rewards.reward import Reward as Reward
    from rluf_assets.rewards.stage import train_reward as train_reward

# Module -> the names it gives.
_NAMES = {
    "errors": ("RlufError",),
    "evaluation.config": ("HackingAuditConfig", "ReadoutConfig", "ReleaseConfig"),
    "evaluation.hacking": ("HackingAudit", "audit_reward_hacking"),
    "evaluation.readout": ("Readout", "read_out"),
    "evaluation.release": ("Decisions", "decide"),
    "feedback.audit": ("audit_signals",),
    "feedback.audit_report": ("SignalAudit",),
    "feedback.config": ("ContractConfig", "SignalAuditConfig", "SignalSetConfig"),
    "feedback.files": ("read_logs",),
    "feedback.signal_set": ("SignalSet", "build_signal_set"),
    "home": ("Home", "open_home"),
    "policy.base": ("train_base_policy",),
    "policy.config": ("BasePolicyConfig", "OptimisationConfig"),
    "policy.loop": ("optimise_policy",),
    "policy.optimised": ("OptimisedPolicy",),
    "rewards.config": ("RewardConfig",),
    "rewards.reward": ("Reward",),
    "rewards.stage": ("train_reward",),
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names}
__all__ = sorted(_MODULES)


def __getattr__(name: str) -> object:
    """A name's first use loads its module. Raises MissingExtra, naming the extra, where a package is not installed."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    except ModuleNotFoundError as error:
        from rluf_assets.errors import missing_extra

        raise missing_extra(error, f"rluf_assets.{name}") or error from error


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
