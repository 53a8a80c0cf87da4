"""The report of a large study: how many bytes, how long to make, and how long until a browser has drawn all of it.

    python bench/report.py [--json PATH | --save]

The study is synthetic: 20 optimizers, 64 trials and 5 final runs each, 500 records a run. Seconds in the browser count from the start of
loading until every figure is drawn, in headless Chromium without a graphics card. The exit code is 1 where the page is larger than 5 MB or
the median is above 2 s. `--save` writes bench/results/report-<date>.json. Figures count on a machine that does nothing else: the load at
the start is among the results.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

from common import hardware

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import chromium
from study_samples import study
from thalweg.study.report import write

OPTIMIZERS, TRIALS, RECORDS, REPEATS = 20, 64, 500, 5
MOST_BYTES, MOST_SECONDS = 5_000_000, 2.0


def measure() -> dict[str, Any]:
    """Bytes, seconds to write, seconds to draw, each time by a new browser, and seconds of what a reader does next."""
    results = study([f"optimizer_{k}" for k in range(OPTIMIZERS)], trials=TRIALS, records=RECORDS)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.html"
        write(results, path)  # the first also packs Plotly
        began = perf_counter()
        write(results, path)
        wrote = perf_counter() - began
        firsts = [draw(path) for _ in range(REPEATS)]
        seconds = act(path)
        size = path.stat().st_size
    drawn, figures, busy = zip(*firsts, strict=True)
    return {
        "optimizers": OPTIMIZERS, "trials": TRIALS, "records": RECORDS, "runs": len(results.runs), "bytes": size, "write_seconds": wrote,
        "draw_seconds": statistics.median(drawn), "all_draw_seconds": drawn, "figures_seconds": statistics.median(figures),
        "processor_seconds": statistics.median(busy), "all_processor_seconds": busy, "then_seconds": seconds,
    }  # fmt: skip


def draw(path: Path) -> tuple[float, float, float]:
    """Of a browser that was just started: seconds until all is drawn, until all figures are, and the processor's seconds of the page."""
    with chromium.page() as tab:
        tab.call("Performance.enable", timeDomain="threadTicks")
        tab.open(path)
        tab.wait("document.documentElement.dataset.drawn === 'yes'")
        wall = tab.run("performance.getEntriesByName('drawn')[0].startTime") / 1000
        figures = tab.run("performance.getEntriesByName('figures')[0].startTime") / 1000
        metrics = {metric["name"]: metric["value"] for metric in tab.call("Performance.getMetrics")["metrics"]}
        assert tab.errors == [], tab.errors
    return wall, figures, metrics["TaskDuration"]


def act(path: Path) -> dict[str, float]:
    """Seconds that the page takes to answer what a reader does next."""
    with chromium.page() as tab:
        tab.open(path)
        tab.wait("document.documentElement.dataset.drawn === 'yes'")
        frame = "await new Promise(requestAnimationFrame)"
        timed = f"(async () => {{{{ const a = performance.now(); {{}}; {frame}; return performance.now() - a }}}})()"
        measure = "const s = document.querySelector('.measure'); s.value = {}; s.dispatchEvent(new Event('change'))"
        deeds = {
            "another measure": measure.format(3),
            "curves of all trials": measure.format(5),
            "hide an optimizer": "document.querySelector('.legend [data-series]').click()",
            "sort the runs": "document.querySelectorAll('#all-runs th button')[9].click()",
        }
        seconds = {name: tab.run(timed.format(deed)) / 1000 for name, deed in deeds.items()}
        assert tab.errors == [], tab.errors
    return seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the results there")
    parser.add_argument("--save", action="store_true", help="write the results to bench/results/report-<date>.json")
    options = parser.parse_args()
    date = datetime.date.today().isoformat()
    found: dict[str, Any] = {"date": date, "hardware": hardware(), **measure()}
    print(f"{found['runs']} runs: {found['bytes'] / 1e6:.2f} MB, written in {found['write_seconds']:.2f} s")
    print(f"drawn in {found['draw_seconds']:.2f} s (median of {', '.join(f'{s:.2f}' for s in found['all_draw_seconds'])})")
    print(f"  the figures in {found['figures_seconds']:.2f} s, before the table of runs is laid out")
    print(f"  of the processor: {found['processor_seconds']:.2f} s; load of this machine {found['hardware']['load'][0]:.1f}")
    for name, seconds in found["then_seconds"].items():
        print(f"  {name}: {seconds:.2f} s")
    for path in [options.json, Path(__file__).parent / "results" / f"report-{date}.json" if options.save else None]:
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            print(f"written to {path}")
    missed = found["bytes"] > MOST_BYTES or found["draw_seconds"] > MOST_SECONDS
    if missed:
        print(f"more than {MOST_BYTES / 1e6:g} MB or {MOST_SECONDS:g} s", file=sys.stderr)
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
