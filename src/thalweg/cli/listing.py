"""What `thalweg list` shows: the shelves, as they describe themselves."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import Any

import click

from thalweg.cli import terminal
from thalweg.core import catalogue
from thalweg.core.rule import Hyper
from thalweg.errors import UserError, unknown


def show(what: str | None, as_json: bool, plot: bool = False, to: Path | None = None) -> None:
    """Print the rows of `listing`, or what `--plot` draws."""
    if plot:
        from thalweg.cli.plots import plot as draw

        draw(what, to, as_json)
        return
    if to is not None:
        raise UserError(f"--to {to} is where --plot writes; add --plot")
    rows = listing(what)
    if as_json:
        click.echo(jsonlib.dumps(rows))
    else:
        terminal.table(rows)


def listing(what: str | None) -> list[dict[str, Any]]:
    """Rows of a shelf, of the named problems, or of the studies below outputs/; without a name, how many there are of each."""
    if what is None:
        counts = [{"shelf": name, "entries": len(catalogue.shelf(name))} for name in catalogue.SHELVES]
        return [*counts, {"shelf": "problems", "entries": len(_problems())}, {"shelf": "studies", "entries": len(_studies())}]
    if what == "problems":
        return _problems()
    if what == "studies":
        return _studies()
    if what not in catalogue.SHELVES:
        raise unknown("shelf", what, (*catalogue.SHELVES, "problems", "studies"))
    return [_row(what, name, entry) for name, entry in catalogue.shelf(what).items()]


def _row(shelf: str, name: str, entry: Any) -> dict[str, Any]:
    about = (entry.doc or "").strip().partition("\n\n")[0].replace("\n", " ")
    hypers: dict[str, Hyper] = getattr(entry, "hypers", {}) or {}
    row: dict[str, Any] = {"name": name}
    if shelf in ("optimizers", "wrappers", "regularizers"):
        row["takes"] = ", ".join(f"{n}={h.default:g}" if h.domain.kind == "float" else f"{n}={h.default}" for n, h in hypers.items())
        row["searched"] = ", ".join(
            f"{n} {h.domain.search[0]:g}..{h.domain.search[1]:g}" for n, h in hypers.items() if h.domain.tuned and h.domain.search
        )
    if shelf == "pictures":
        row["drawn from"] = ", ".join(name if needed else f"({name})" for name, needed in entry.requests.items())
    return row | {"about": about}


def _problems() -> list[dict[str, Any]]:
    from thalweg.study.problems import combinations

    return [{"name": name} for name in combinations()]


def _studies() -> list[dict[str, Any]]:
    from thalweg.errors import ThalwegError
    from thalweg.study.study import Study

    rows = []
    for database in sorted(Path("outputs").glob("*/study.db")):
        try:
            results = Study.open(database.parent).results()
        except ThalwegError as error:
            rows.append({"folder": str(database.parent), "kind": "", "runs": str(error)})
            continue
        rows.append({"folder": str(database.parent), "kind": results.kind, "runs": f"{len(results.runs)}/{sum(results.planned.values())}"})
    return rows
