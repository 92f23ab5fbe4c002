"""Reward models: P[signal] and preference rewards, trained, calibrated, scored and evaluated."""
