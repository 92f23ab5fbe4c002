"""From any reaction log to a trusted, upsampled signal set: adapters, row contract, labels, audit, sampling.

Pure functions over Polars frames and Parquet folders; the jobs `ingest`, `validate_replies`, `signal_audit`,
`signal_set`, `preference_pairs` and `evaluation_prompts` wrap them behind JSON configs.
"""
