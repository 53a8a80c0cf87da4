"""What `tw.diagnose` makes of the fault zoo (tests/zoo): right cause first, remedies that repair, false alarms; by fault and architecture.

    python bench/zoo.py [--half tuned|held-out|both] [--only FAULT]... [--json PATH | --save]
    python bench/zoo.py --docs

Every program is a small training in plain PyTorch with one known fault (or none), drawn by seed. On one half of them thresholds were set;
the other half was held out. A remedy repairs where the training, with the first finding's change made, goes at least 85 % of the way from
chance to the healthy twin's loss. The promises are judged on the held-out half: right cause first in at least 85 %, false alarms in at most
5 % of the healthy runs, repaired in at least 70 %.
"""

from __future__ import annotations

import math
import sys
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from common import DOCS, RESULTS, begun, ended, fill, keep, measured_on, newest, parser_of, tabular

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from zoo import faults, healthy, judge

FORMAT = 1
HALVES = ("tuned", "held-out")
PROMISE = {"right": 0.85, "repaired": 0.70, "alarms": 0.05}


def rates(programs: Sequence[Mapping[str, Any]], sound: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The three rates, of as many programs as there are."""
    return {
        "programs": len(programs), "healthy": len(sound),
        "right": sum(p["right"] for p in programs) / max(len(programs), 1),
        "repaired": sum(p["repaired"] for p in programs) / max(len(programs), 1),
        "alarms": sum(bool(h["findings"]) for h in sound) / max(len(sound), 1),
        "seconds": sum(p["seconds"] for p in programs) / max(len(programs), 1),
    }  # fmt: skip


def of_half(results: Mapping[str, Any], half: str) -> dict[str, float]:
    return rates(*([one for one in results[name] if one["half"] == half] for name in ("programs", "healthy")))


def confusion(programs: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """A row a fault: programs, right, repaired, and what was named first instead."""
    rows = []
    for fault in faults.FAULTS:
        own = [p for p in programs if p["fault"] == fault]
        if own:
            instead = Counter(p["first"] or "nothing" for p in own if not p["right"])
            said = ", ".join(f"{name} {count}" for name, count in instead.most_common())
            rows.append([f"`{fault}`", str(len(own)), str(sum(p["right"] for p in own)), str(sum(p["repaired"] for p in own)), said or "-"])
    return rows


def page(results: Mapping[str, Any]) -> str:
    """The results as the docs show them."""
    lines = [measured_on(results), ""]
    rows = []
    for half in HALVES:
        found = of_half(results, half)
        rows.append(
            [
                half,
                str(found["programs"]),
                *(f"{found[k]:.1%}" for k in ("right", "repaired")),
                str(found["healthy"]),
                f"{found['alarms']:.1%}",
            ]
        )
    lines += tabular(["half", "programs", "right cause first", "first remedy repairs", "healthy runs", "false alarms"], rows)
    lines += ["", "The held-out half, by fault:", ""]
    held = [p for p in results["programs"] if p["half"] == "held-out"]
    lines += tabular(["fault", "programs", "named first", "repaired", "named instead"], confusion(held))
    return "\n".join(lines) + "\n"


def missed(results: Mapping[str, Any]) -> list[str]:
    found = of_half(results, "held-out")
    said = [
        f"{what}: {found[what]:.1%}, at least {PROMISE[what]:.0%} is promised"
        for what in ("right", "repaired")
        if found[what] < PROMISE[what]
    ]
    return said + [f"false alarms: {found['alarms']:.1%}, at most {PROMISE['alarms']:.0%} is promised"] * (
        found["alarms"] > PROMISE["alarms"]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = parser_of(__doc__, "zoo")
    parser.add_argument("--half", choices=(*HALVES, "both"), default="both", help="on which half")
    parser.add_argument("--only", action="append", metavar="FAULT", help="this fault; may be repeated; healthy runs are named healthy")
    options = parser.parse_args(arguments)
    if options.docs:
        results = newest(RESULTS, "zoo", FORMAT)
        if results is None:
            parser.error("no results of a whole run are saved; run with --save first")
        path = DOCS / "diagnose.md"
        path.write_text(fill(path.read_text(encoding="utf-8"), page(results)), encoding="utf-8")
        return 0
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    results, saved = begun("zoo", FORMAT, options, False)
    results |= {"programs": [], "healthy": []}
    wanted = HALVES if options.half == "both" else (options.half,)
    for fault, architecture, seed in faults.cases():
        half = HALVES[faults.held_out(fault, architecture, seed)]
        if half in wanted and (not options.only or fault in options.only):
            v = judge.judged(fault, architecture, seed)
            results["programs"].append({
                "half": half, "fault": fault, "architecture": architecture, "seed": seed, "first": v.first, "findings": list(v.findings),
                "right": v.right, "repaired": v.repaired, "sick": _finite(v.sick), "after": _finite(v.after), "seconds": v.seconds,
            })  # fmt: skip
            if not v.right or not v.repaired:
                print(f"{half}: {fault} {architecture}{seed}: {v.findings}, {v.sick:.2f} -> {v.after:.2f}", file=sys.stderr, flush=True)
    for number in range(healthy.COUNT):
        half = HALVES[healthy.held_out(number)]
        if half in wanted and (not options.only or "healthy" in options.only):
            found = judge.alarms([number])[number]
            results["healthy"].append({"half": half, "number": number, "findings": list(found)})
            if found:
                print(f"{half}: healthy {number}: {found}", file=sys.stderr, flush=True)
    results["whole"] = options.half == "both" and not options.only
    for half in wanted:
        print(half, {key: round(value, 3) for key, value in of_half(results, half).items()})
    return ended(keep(results, options.json, saved, None), missed(results) if results["whole"] else [])


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


if __name__ == "__main__":
    sys.exit(main())
