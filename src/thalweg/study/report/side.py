"""Several studies side by side on one page: a verdict and a panel each, the same optimizers in the same colours."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from thalweg.core.files import write_whole
from thalweg.errors import UserError
from thalweg.study.judge import Verdict, judge
from thalweg.study.report.figures import drawable, figures
from thalweg.study.report.measured import profile_of
from thalweg.study.report.method import method
from thalweg.study.report.page import facts, fill
from thalweg.study.report.slots import Cell, profile, table
from thalweg.study.results import Results
from thalweg.study.sentences import score_name
from thalweg.study.words import amount, listing, setting


def write_beside(studies: Mapping[str, Results], path: str | os.PathLike[str], measured: Mapping[str, Any] | None = None) -> Path:
    """Write the page of several studies, name -> results, to `path`, whole or not at all."""
    target = Path(path)
    write_whole(target, render_beside(studies, measured))
    return target


def open_beside(folders: Sequence[str | os.PathLike[str]], path: str | os.PathLike[str] | None = None) -> Path:
    """Write the page of the studies in `folders`, by default `side-by-side.html` where this is called, and return where it is.

    Raises UserError for a folder that holds no study, or one that is named twice.
    """
    from thalweg.study.study import Study

    places = [Path(folder) for folder in folders]
    twice = [place for place, count in Counter(place.resolve() for place in places).items() if count > 1]
    if twice:
        raise UserError(f"{next(p for p in places if p.resolve() == twice[0])} is named twice; name each study's folder once")
    found = []
    for place in places:
        study = Study.open(place)
        try:
            found.append(study.results())
        finally:
            study.close()
    names = Counter(results.name for results in found)
    told = [results.name if names[results.name] == 1 else str(place) for place, results in zip(places, found, strict=True)]
    return write_beside(dict(zip(told, found, strict=True)), path or "side-by-side.html")


def render_beside(studies: Mapping[str, Results], measured: Mapping[str, Any] | None = None) -> str:
    """One HTML document of several studies, name -> results. measured: {"profile": ...} as `thalweg.study.report.slots` describes it.

    By default the profile is that of the studies, where all are finished comparisons with an optimizer in common.
    """
    labels = tuple(dict.fromkeys(label for results in studies.values() for label in results.optimizers))
    series = {label: k for k, label in enumerate(labels)}
    verdicts = {name: judge(results) for name, results in studies.items()}
    each = {name: figures(results, verdicts[name], None, series) for name, results in studies.items()}
    given = profile_of(studies) if measured is None else measured.get("profile")
    drawn = {
        "curves": together({name: one["curves"] for name, one in each.items()}),
        "sensitivity": together({name: [one["sensitivity"]] for name, one in each.items() if one["sensitivity"]}),
        "profile": profile(given, series) if given else None,
    }
    cards = [
        {
            "name": name, "results": results, "verdict": verdicts[name], "what": score_name(results, verdicts[name]),
            "method": method(results, {"profile": given}), **facts(results),
        } for name, results in studies.items()
    ]  # fmt: skip
    return fill(
        "side.html", drawable(drawn), labels, drawn=drawn, cards=cards, names=listing(list(studies), 4),
        summary=summary(verdicts), scores=scores(studies, verdicts, series),
    )  # fmt: skip


def together(each: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Views of several studies, name -> views, as views with a panel a study; what several measure alike shares its ranges."""
    found: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {}
    for name, views in each.items():
        for view in views:
            found.setdefault((view["key"], view["title"]), {})[name] = view
    made = []
    for (key, title), own in found.items():
        panels = [{"name": name, **{k: view[k] for k in ("data", "layout", "ranges") if k in view}} for name, view in own.items()]
        whole: dict[str, Any] = {"key": key, "title": title, "caption": next(iter(own.values()))["caption"], "panels": panels}
        if all("ranges" in panel for panel in panels):
            whole["ranges"] = {kind: _hull([panel["ranges"][kind] for panel in panels]) for kind in ("linear", "log")}
            whole["log"] = all(view["log"] for view in own.values())
        made.append(whole)
    return made


def _hull(ranges: Sequence[Sequence[float] | None]) -> list[float] | None:
    """The smallest range that holds all; None where one has none (a logarithm of what is not positive)."""
    known = [r for r in ranges if r is not None]
    return [min(low for low, _ in known), max(high for _, high in known)] if known and len(known) == len(ranges) else None


def summary(verdicts: Mapping[str, Verdict]) -> str:
    """Who won how often, in a sentence.

    >>> from types import SimpleNamespace as V
    >>> summary({"a": V(winner="adam"), "b": V(winner="adam"), "c": V(winner=None)})
    '3 studies: adam wins 2; 1 has no clear winner.'
    """
    wins = Counter(verdict.winner for verdict in verdicts.values() if verdict.winner)
    open_ones = len(verdicts) - sum(wins.values())
    parts = [f"{label} wins {count}" for label, count in wins.most_common()]
    parts += [f"{open_ones} {'has' if open_ones == 1 else 'have'} no clear winner"] if open_ones else []
    return f"{len(verdicts)} {'study' if len(verdicts) == 1 else 'studies'}: {'; '.join(parts)}."


def scores(studies: Mapping[str, Results], verdicts: Mapping[str, Verdict], series: Mapping[str, int]) -> dict[str, Any]:
    """The table of scores: a row an optimizer, a column a study; ★ is a study's best, and a winner is called so."""
    rows = []
    columns = {name: verdicts[name].standings.set_index("optimizer").to_dict("index") for name in studies}
    for label, k in series.items():
        cells: list[Cell] = [(label, None)]
        for name in studies:
            row, verdict = columns[name].get(label), verdicts[name]
            if row is None:
                cells.append(("not compared", None))
                continue
            text = amount(row["mean"], str(verdict.standings.attrs["score"]), row["half"])
            text += " ★ winner" if label == verdict.winner else " ★" if label == verdict.leader else ""
            cells.append((f"{text} ({setting(row['config'])})" if row["config"] is not None else "every trial diverged", None))
        rows.append((k, cells))
    heads = [f"{name}: {score_name(results, verdicts[name])}" for name, results in studies.items()]
    caption = "★: the best of its study, which is not always a winner. In brackets the setting that was chosen."
    return table(caption, ["Optimizer", *heads], rows)


__all__ = ["open_beside", "render_beside", "write_beside"]
