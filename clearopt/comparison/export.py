"""A comparison as CSV, JSON and data frames."""

from __future__ import annotations

import csv
import importlib
import importlib.util
import io
import json
import math
from pathlib import Path
from typing import Any, Literal

from clearopt.atomic import written_whole
from clearopt.comparison.rows import PLAIN, Comparison, ComparisonRow
from clearopt.errors import DeclarationError, MissingExtraError


def to_dataframe(comparison: Comparison, library: Literal["pandas", "polars"] | None) -> Any:
    """As `Comparison.to_dataframe`."""
    known = ("pandas", "polars")
    if library is not None and library not in known:
        raise DeclarationError(f"library = {library!r}: must be 'pandas', 'polars' or None")
    wanted = known if library is None else (library,)
    found = next((name for name in wanted if importlib.util.find_spec(name) is not None), None)
    if found is None:
        raise MissingExtraError(
            f"a data frame needs {' or '.join(wanted)}, which is not installed: "
            "pip install 'clearopt[tables]'"
        )
    rows = comparison.to_dicts()
    columns = {name: [row[name] for row in rows] for name in PLAIN}
    return importlib.import_module(found).DataFrame(columns)


def to_csv(comparison: Comparison, path: str | Path) -> Path:
    """As `Comparison.to_csv`."""
    text = io.StringIO()
    writer = csv.DictWriter(text, PLAIN)
    writer.writeheader()
    writer.writerows(comparison.to_dicts())
    return _written(path, text.getvalue())


def to_json(comparison: Comparison, path: str | Path) -> Path:
    """As `Comparison.to_json`; numbers that are not finite become null."""
    document = {
        "format": "clearopt comparison",
        "version": 1,
        "complete": comparison.complete,
        "tolerance": comparison.tolerance,
        "settings": comparison.settings,
        "versions": comparison.versions,
        "machine": comparison.machine,
        "notes": list(comparison.notes),
        "contradictions": comparison.contradictions,
        "known": {
            name: {"value": each.value, "bound": each.bound}
            for name, each in comparison.known.items()
        },
        "rows": [_entry(row) for row in comparison.rows],
    }
    return _written(path, json.dumps(_finite(document), indent=1, allow_nan=False) + "\n")


def _entry(row: ComparisonRow) -> dict[str, Any]:
    entry: dict[str, Any] = {name: getattr(row, name) for name in PLAIN}
    entry["curve"] = [list(point) for point in row.curve]
    if row.runs:
        entry["runs"] = [_entry(run) for run in row.runs]
    return entry


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return value


def _written(path: str | Path, text: str) -> Path:
    where = Path(path)
    with written_whole(where) as file:
        file.write(text.encode())
    return where
