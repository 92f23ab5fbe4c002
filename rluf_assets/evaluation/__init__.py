"""Evaluation: what people release or hold a model on.

Offline comparison on fixed prompts, offline-online backtest, A/B readout, reward-hacking audit, release decision and
its page. Reads scores and texts from files, never a model; statistics come from SciPy, plots from Plotly.
"""
