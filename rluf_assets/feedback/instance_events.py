"""Rows of tables in Dagster's database, which its UI shows as examples: counted, and taken out where a user is forgotten."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

# Where Dagster's SQLite storage keeps events as JSON: table, column.
_PLACES = (("event_logs", "event"), ("asset_keys", "last_materialization"))


def blank_examples(home: Path, *, dry_run: bool) -> int:
    """Empty the examples of every materialisation in the home's Dagster instance; gives how many events had any.

    All of them, not only those of a forgotten user: a cut text no longer says whose it was.
    """
    return sum(_blank(path, dry_run) for path in sorted((home / "dagster").rglob("*.db")))


def _blank(path: Path, dry_run: bool) -> int:
    found = 0
    with closing(sqlite3.connect(path, timeout=30)) as database, database:
        there = {name for (name,) in database.execute("select name from sqlite_master where type = 'table'")}
        for table, column in _PLACES:
            if table not in there:
                continue
            query = f"select rowid, {column} from {table} where {column} like '%\"examples\"%'"
            for row, text in database.execute(query).fetchall():
                event = json.loads(text)
                if not _empty(event):
                    continue
                found += 1
                if not dry_run:
                    database.execute(f"update {table} set {column} = ? where rowid = ?", (json.dumps(event), row))
    if found and not dry_run:
        with closing(sqlite3.connect(path, timeout=30)) as database:
            database.execute("vacuum")  # else the old pages stay in the file
    return found


def _empty(value: Any, label: str | None = None) -> bool:
    """Empty all examples within; whether there were any."""
    if isinstance(value, list):
        return sum(_empty(one) for one in value) > 0
    if not isinstance(value, dict):
        return False
    if value.get("label") == "examples" or label == "examples":
        table = value.get("entry_data", value)
        if isinstance(table, dict) and table.get("records"):
            table["records"] = []
            return True
    return sum(_empty(one, name) for name, one in value.items()) > 0
