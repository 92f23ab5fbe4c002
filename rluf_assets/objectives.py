"""Which objectives there are, and the asset that scores each. "love" stands for the configured signal's reward model."""

from __future__ import annotations

LOVE = "love"
REWARDS = {LOVE: "p_love", "helpfulness": "helpfulness_reward", "safety": "safety_reward"}
