"""Data checks: one-row metrics frames by Polars, Great Expectations suites over them, Dagster asset checks on top."""
