"""Policies: training a base policy, sampling, judges, CRRAFT and its siblings, and scoring a candidate offline."""
