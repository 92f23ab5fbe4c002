"""The compute plane: one module per job, runnable as `python -m rluf_assets.jobs.<name> SPEC.json [SPEC.json ...]`."""
