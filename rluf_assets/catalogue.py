"""What the graph tells about every asset beside its description: the table of its grain, and what each column means.

`catalogue.yaml` is the data dictionary: asset -> file of the main table -> columns with type and meaning. The graph
shows it (documented.py), every materialisation tells the types it found in the same words (resources/metadata.py), and
the tests hold it against a real lake. `{signal}`, `{objective}` and `{judge}` in a name stand for one
column per configured one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import polars as pl
import yaml

_PLACEHOLDER = re.compile(r"\{(signal|objective|judge)\}")


@dataclass(frozen=True)
class Column:
    """Type and meaning of one column; times are UTC, rates are shares of 1, intervals are of 95%."""

    type: str
    meaning: str


@dataclass(frozen=True)
class TableEntry:
    """The main table of an asset: its Parquet file inside the artifact, and its columns in order."""

    file: str
    columns: Mapping[str, Column]
    raw: bool = False  # as users wrote it: its rows are shown nowhere

    def expanded(self, names: Mapping[str, Sequence[str]]) -> dict[str, Column]:
        """The columns with each placeholder written out, e.g. for `names={"signal": ["love"], ...}`."""
        found = {}
        for pattern, column in self.columns.items():
            slot = _PLACEHOLDER.search(pattern)
            for name in names[slot[1]] if slot else [""]:
                meaning = _PLACEHOLDER.sub(name, column.meaning)
                found[_PLACEHOLDER.sub(name, pattern)] = Column(column.type, meaning)
        return found

    def meaning(self, column: str) -> str | None:
        """What a column found in a file means; None for one that only some settings give."""
        if column in self.columns:
            return self.columns[column].meaning
        for pattern, entry in self.columns.items():
            before, *rest = _PLACEHOLDER.split(pattern)
            if rest and before + rest[-1] and column.startswith(before) and column.endswith(rest[-1]):
                name = column.removeprefix(before).removesuffix(rest[-1])
                return _PLACEHOLDER.sub(name, entry.meaning)
        return None


@cache
def catalogue() -> Mapping[str, TableEntry]:
    """Asset -> its main table. Assets that are folders of weights without a table are not in it."""
    raw = yaml.safe_load(files(__package__).joinpath("catalogue.yaml").read_text(encoding="utf-8"))
    return {
        asset: TableEntry(
            entry["file"],
            {name: Column(kind, meaning) for name, (kind, meaning) in entry["columns"].items()},
            asset.startswith("raw_"),
        )
        for asset, entry in raw.items()
    }


def type_name(dtype: pl.DataType) -> str:
    """A column's type in the catalogue's words: Polars' name, times and nested types shortened."""
    if isinstance(dtype, pl.Datetime):
        return "Datetime"
    if isinstance(dtype, pl.List):
        return f"list of {type_name(dtype.inner)}"  # type: ignore[arg-type]
    if isinstance(dtype, pl.Struct):
        return "{" + ", ".join(field.name for field in dtype.fields) + "}"
    return str(dtype)
