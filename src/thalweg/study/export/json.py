"""A table as JSON: a list of records, numbers to their last digit, null where there is no value."""

from __future__ import annotations

import json
import math
from typing import Any

import pandas as pd

from thalweg.study.export import TABLES, Outlet
from thalweg.study.results import Results


def content(results: Results, table: pd.DataFrame) -> str:
    records = ({name: _plain(value) for name, value in row.items()} for row in table.astype(object).to_dict("records"))
    return "[" + ",\n".join(json.dumps(record, allow_nan=False) for record in records) + "]\n"


def _plain(value: Any) -> Any:
    """JSON knows neither nan nor infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


outlet = Outlet(endings=(".json",), content=content, tables=TABLES)
