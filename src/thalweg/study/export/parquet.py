"""A table as Parquet, which keeps the type of every column."""

from __future__ import annotations

import pandas as pd

from thalweg.study.export import TABLES, Outlet, need
from thalweg.study.results import Results


def content(results: Results, table: pd.DataFrame) -> bytes:
    need("pyarrow", "pyarrow")
    return table.to_parquet(index=False, engine="pyarrow")


outlet = Outlet(endings=(".parquet", ".pq"), content=content, tables=TABLES)
