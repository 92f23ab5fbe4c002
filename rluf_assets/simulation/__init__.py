"""A simulated production with a known truth: users, conversations, reactions, experts, past launches, live A/B tests.

The stand-in for a company's traffic. Only `resources/production.py` and the `play_*` jobs may import it: models and
judges never see the truth (`truth.py`, described in `docs/simulation.md`).
"""
