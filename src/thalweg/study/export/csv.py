"""A table as CSV: comma separated, a header, numbers to their last digit, nothing where there is no value."""

from __future__ import annotations

import pandas as pd

from thalweg.study.export import TABLES, Outlet
from thalweg.study.results import Results


def content(results: Results, table: pd.DataFrame) -> str:
    return table.to_csv(index=False, lineterminator="\n")


outlet = Outlet(endings=(".csv",), content=content, tables=TABLES)
