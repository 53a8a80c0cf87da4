"""The standings as a LaTeX tabular in the style of booktabs, to be read into a paper with \\input."""

from __future__ import annotations

import re
from typing import Any

import pandas as pd

from thalweg.study.export import Outlet
from thalweg.study.judge import judge
from thalweg.study.results import Results
from thalweg.study.sentences import score_name
from thalweg.study.words import amount, is_share, number, setting

SIGNS = {"±": r"$\pm$", "−": "$-$", "–": "--", "∞": r"$\infty$", "…": r"\ldots{}", "×": r"$\times$"}


def content(results: Results, table: pd.DataFrame) -> str:
    verdict = judge(results)
    score, finals = str(verdict.standings.attrs["score"]), verdict.basis == "final"
    rows = [_row(row, score, finals, row["optimizer"] == verdict.leader) for row in verdict.standings.to_dict("records")]
    shown = pd.DataFrame(rows)
    if len(shown):
        shown.columns = [score_name(results, verdict).capitalize() if name == "score" else name for name in shown.columns]
    style = shown.style.hide(axis="index").format(escape="latex").format_index(escape="latex", axis=1)
    if verdict.winner is not None:
        style = style.map(lambda text: "textbf:--rwrap;" if text == verdict.winner else "", subset=["Optimizer"])
    tabular = style.to_latex(hrules=True, column_format="ll" + "r" * max(0, len(shown.columns) - 2))
    said = "".join(f"% {sentence}\n" for sentence in (" ".join(verdict.headline.split()), r"needs \usepackage{booktabs}"))
    return said + _signs(tabular)


def _row(row: dict[Any, Any], score: str, finals: bool, best: bool) -> dict[str, str]:
    """The cells of an optimizer; columns of which the study holds nothing are left out."""
    cells = {"Optimizer": str(row["optimizer"]), "Setting": "–" if row["config"] is None else setting(row["config"])}
    cells["score"] = amount(row["mean"], score, row["half"])
    if finals:
        points = ", points" if is_share(score) else ""
        gap = amount(row["difference"], score, row["difference_half"], unit=False)
        cells[f"Difference{points}"] = "the best" if best else gap.replace("-", "−", 1)
        cells["Adjusted p"] = "–" if best or row["p_value"] != row["p_value"] else _p(row["p_value"])
    trials = int(row["trials"])
    cells["Diverged"] = f"{round(row['diverged_tuning'] * trials)} of {trials}" if trials else "–"
    return cells


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else number(value)


def _signs(text: str) -> str:
    """Signs that plain LaTeX lacks, and 3.1e-3 as a power of ten."""
    text = re.sub(r"(?<![\w.])(\d+(?:\.\d+)?)e(-?\d+)\b", r"$\1 \\times 10^{\2}$", text)
    for sign, code in SIGNS.items():
        text = text.replace(sign, code)
    return text


outlet = Outlet(endings=(".tex",), content=content, tables=("standings",))
