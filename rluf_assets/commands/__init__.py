"""Commands of `rluf`, one module per part of the toolkit; `cli.py` puts them together."""
