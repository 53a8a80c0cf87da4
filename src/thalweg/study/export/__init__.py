"""Outlets: a study in the format of another tool, a file a format; a file placed here is found by being here.

Such a file holds `outlet = Outlet(...)`. What it needs beyond thalweg's own dependencies it asks for with `need`.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thalweg.errors import UserError, unknown

if TYPE_CHECKING:
    import pandas as pd

    from thalweg.study.results import Results

TABLES = ("runs", "curves", "standings")


@dataclass(frozen=True)
class Outlet:
    """A format, as one of two kinds.

    content: (results, table) -> text or bytes, for a format that is a file; tables: which tables it can hold, its default first.
    write: (results, where or None) -> what is given back, for a format that is a folder or a database.
    endings: of the paths that stand for it, such as ".csv".
    """

    endings: tuple[str, ...]
    content: Callable[[Results, pd.DataFrame], str | bytes] | None = None
    tables: tuple[str, ...] = ()
    write: Callable[[Results, str | None], Any] | None = None


def formats() -> tuple[str, ...]:
    """The names of all formats; nothing of theirs is imported.

    >>> formats()
    ('csv', 'json', 'latex', 'optuna', 'parquet', 'tensorboard')
    """
    return tuple(sorted(info.name for info in pkgutil.iter_modules(__path__) if not info.name.startswith("_")))


def find(name: str) -> Outlet:
    """The outlet of a format. Raises UserError, with the nearest name, where there is none."""
    if name not in formats():
        raise unknown("export format", name, formats())
    return importlib.import_module(f"{__name__}.{name}").outlet


def by_ending(where: str) -> str:
    """The format that a path's ending stands for; CSV where it stands for none.

    >>> by_ending("runs.parquet"), by_ending("table.tex"), by_ending("runs")
    ('parquet', 'latex', 'csv')
    """
    ending = Path(where).suffix.lower()
    return next((name for name in formats() if ending in find(name).endings), "csv")


def export(results: Results, format: str | None = None, where: str | None = None, table: str | None = None) -> Any:
    """Write a study in a format: see `Study.export`."""
    from thalweg.core.files import write_whole
    from thalweg.study.tables import TABLE

    name = format or by_ending(where or "")
    outlet = find(name)
    if outlet.write is not None:
        if table is not None:
            raise UserError(f"{name} holds the study whole; leave the choice of a table out")
        return outlet.write(results, where)
    assert outlet.content is not None
    chosen = table or outlet.tables[0]
    if chosen not in outlet.tables:
        raise UserError(f"{name} holds no table called '{chosen}'; it holds {' or '.join(outlet.tables)}")
    content = outlet.content(results, TABLE[chosen](results))
    if where is None:
        return content
    write_whole(Path(where), content)
    return Path(where)


def need(module: str, package: str) -> Any:
    """A module of an optional package. Raises UserError that says how to install it."""
    top = module.partition(".")[0]
    try:
        importlib.import_module(top)
        return importlib.import_module(module)
    except ImportError as error:
        why = "which is not installed" if error.name == top else f"which does not start ({error})"
        raise UserError(f"this format needs the package {package}, {why}; install it with: pip install {package}") from None
