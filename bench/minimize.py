"""thalweg's solver beside scipy's and scikit-learn's: evaluations at the same accuracy, overhead, full-batch fits, many small problems.

    python bench/minimize.py [--quick] [--json PATH | --save]
    python bench/minimize.py --docs

Sides take turns in one process and medians of their turns count. "evaluations": 16 problems of More, Garbow and Hillstrom by each
method that scipy has, counted until the less accurate of the two ends. "overhead": seconds an iteration of BFGS on Rosenbrock's
function of two variables beside what its callbacks take, the certificate included. "fits": seconds to a gradient 1e-6 of the first
one, by every side with the same function; scikit-learn has its own. "lanes": 1,024 starts at once against as many calls of scipy's
BFGS to the same gradient, of which 64 are timed.

The exit code is 1 where a promise is missed. `--quick` shrinks the fits and promises nothing of them. `--save` writes
bench/results/minimize-<date>.json, `--docs` puts the newest of those files into docs/minimize.md. Figures count on a machine that
does nothing else: the load at the start is among the results.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Any
from unittest import mock

import numpy as np
import torch
from scipy import optimize
from torch import Tensor
from torch.nn import functional

from common import begun, cell, ended, keep, line, measured_on, parser_of, refill, tabular
from thalweg.core.catalogue import shelf
from thalweg.solve.minimize import minimize

FORMAT = 1
PEERS = {"bfgs": "BFGS", "lbfgs": "L-BFGS-B", "newton-cg": "Newton-CG", "trust-exact": "trust-exact", "trust-cg": "trust-ncg"}
PROBLEMS = [
    *((name, None) for name in (
        "rosenbrock", "powell-badly-scaled", "beale", "jennrich-sampson", "helical-valley", "bard", "gaussian", "meyer", "powell-singular",
        "wood", "brown-dennis", "watson", "penalty", "variably-dimensioned", "trigonometric",
    )), ("rosenbrock", 50),
]  # fmt: skip
ROUNDS, SMALL = 5, 2
OVERHEAD, FIT, LANES = 1.0, 1.5, 50.0
"""Promised: overhead of an iteration at most so many times scipy's; fits and lanes at least so many times as fast."""
ACCURACY = 1e-6
TIMED = 64
COUNT = 1024
SIZES = (("rosenbrock", 2), ("beale", 2), ("wood", 4), ("powell-singular", 8), ("rosenbrock", 10))

Function = Callable[[Tensor], Tensor]


def value_and_gradient(function: Function) -> Callable[[np.ndarray], tuple[float, np.ndarray]]:
    """The function as scipy takes it, as fast as torch gives it."""

    def both(x: np.ndarray) -> tuple[float, np.ndarray]:
        leaf = torch.from_numpy(x.copy()).requires_grad_()
        y = function(leaf)
        return y.item(), torch.autograd.grad(y, leaf)[0].numpy()

    return both


# --- evaluations


class Counted:
    """A function's values, gradients, Hessians and products for scipy, and what had been spent when each value was asked for."""

    def __init__(self, function: Function) -> None:
        self.function, self.counts, self.asked = function, {"f": 0, "g": 0, "H": 0, "p": 0}, []

    def cost(self, n: int) -> int:
        return max(self.counts["f"], self.counts["g"]) + n * self.counts["H"] + self.counts["p"]

    def value(self, x: np.ndarray) -> float:
        self.counts["f"] += 1
        f = self.function(torch.from_numpy(x)).item()
        self.asked.append((self.cost(len(x)), f))
        return f

    def _told(self, kind: str, found: Tensor) -> np.ndarray:
        self.counts[kind] += 1
        return found.numpy()

    def gradient(self, x: np.ndarray) -> np.ndarray:
        return self._told("g", torch.autograd.functional.jacobian(self.function, torch.from_numpy(x)))

    def hessian(self, x: np.ndarray) -> np.ndarray:
        return self._told("H", torch.autograd.functional.hessian(self.function, torch.from_numpy(x)))

    def product(self, x: np.ndarray, v: np.ndarray) -> np.ndarray:
        return self._told("p", torch.autograd.functional.vhp(self.function, torch.from_numpy(x), torch.from_numpy(v))[1])


def evaluations(method: str) -> dict[str, Any]:
    """Of every problem, what both sides had spent when they first were as low as the less accurate one ends."""
    rows, functions = [], shelf("functions")
    for name, n in PROBLEMS:
        function = functions[name]
        x0, counted = function.start(n), Counted(function)
        result = minimize(function, x0, method=method, max_iterations=2000)
        extra: dict[str, Any] = {"hess": counted.hessian} if method == "trust-exact" else {}
        extra |= {"hessp": counted.product} if method in ("newton-cg", "trust-cg") else {}
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            end = optimize.minimize(
                counted.value, x0.numpy(), jac=counted.gradient, method=PEERS[method], options={"maxiter": 2000}, **extra
            )
        level = max(float(end.fun), result.value) * (1 + 1e-12)
        row = next(row for row in result.trace if row["value"] <= level)
        share = row["iteration"] / max(result.iterations, 1)
        ours = row["evaluations"] + share * (len(x0) * result.evaluations.H + result.evaluations.products)
        least = function.minimum(n)
        rows.append({
            "problem": name if n is None else f"{name} {n}", "status": result.status, "ours": ours,
            "theirs": next(cost for cost, value in counted.asked if value <= level), "their error": abs(float(end.fun) - least),
            "error": min(abs(result.value - v) for v in (least, *function.others)) / max(1.0, abs(least)),
        })  # fmt: skip
    ours, theirs = (statistics.median(row[side] for row in rows) for side in ("ours", "theirs"))
    fewer = sum(row["ours"] <= row["theirs"] for row in rows)
    solved = sum(row["error"] <= 1e-8 and row["status"].startswith("minimum") for row in rows)
    return {"row": method, "ours": ours, "theirs": theirs, "fewer": fewer, "solved": solved, "problems": rows, "kept": ours <= theirs}


# --- overhead


class Clock:
    """Seconds of each value and each gradient that a side asks torch for, taken in place."""

    def __init__(self, function: Function) -> None:
        self.function, self.gradient = function, torch.autograd.grad
        self.values: list[float] = []
        self.slopes: list[float] = []

    def value(self, x: Tensor) -> Tensor:
        began = perf_counter()
        y = self.function(x)
        self.values.append(perf_counter() - began)
        return y

    def slope(self, *args: Any, **kwargs: Any) -> Any:
        began = perf_counter()
        g = self.gradient(*args, **kwargs)
        self.slopes.append(perf_counter() - began)
        return g

    def rest(self, solve: Callable[[], Any]) -> tuple[float, Any]:
        """Seconds of a solution but for its values and gradients; those of a certificate, which come after them, are not taken off."""
        self.values, self.slopes = [], []
        began = perf_counter()
        found = solve()
        seconds = perf_counter() - began
        asked = found.evaluations.f if hasattr(found, "evaluations") else found.nfev
        return seconds - sum(self.values[:asked]) - sum(self.slopes[:asked]), found


def overhead(rounds: int) -> dict[str, Any]:
    """Seconds of an iteration that are not in the callbacks, of both sides."""
    function = shelf("functions")["rosenbrock"]
    clock, x0 = Clock(function), function.start()
    both, start = value_and_gradient(clock.value), x0.numpy()
    sides: dict[str, list[float]] = {"thalweg": [], "scipy": []}
    with mock.patch.object(torch.autograd, "grad", clock.slope):
        for _ in range(20 * rounds):
            seconds, ours = clock.rest(lambda: minimize(clock.value, x0, method="bfgs", tol=1e-5))
            sides["thalweg"].append(seconds / ours.iterations)
            seconds, theirs = clock.rest(lambda: optimize.minimize(both, start, jac=True, method="BFGS", options={"gtol": 1e-5}))
            sides["scipy"].append(seconds / theirs.nit)
    ours_s, theirs_s = (statistics.median(found) for found in sides.values())
    ratio = ours_s / theirs_s
    return {
        "row": "overhead",
        "thalweg": 1e6 * ours_s,
        "scipy": 1e6 * theirs_s,
        "ratio": ratio,
        "promise": OVERHEAD,
        "kept": ratio <= OVERHEAD,
    }


# --- fits


def logistic(small: bool) -> tuple[Function, Tensor, np.ndarray, np.ndarray]:
    """20,000 rows of 200 correlated columns, labels by a noisy plane: function, start, and the data for scikit-learn."""
    n, p = (4000, 50) if small else (20_000, 200)
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, p)) @ (np.eye(p) + 0.1 * rng.standard_normal((p, p))) * rng.uniform(0.3, 3.0, p)
    y = (X @ rng.standard_normal(p) / np.sqrt(p) + rng.logistic(size=n) > 0).astype(float)
    data, labels = torch.from_numpy(X), torch.from_numpy(y)

    def loss(w: Tensor) -> Tensor:
        return functional.binary_cross_entropy_with_logits(data @ w, labels) + w @ w / (2 * n)

    return loss, torch.zeros(p, dtype=torch.float64), X, y


def softmax(small: bool) -> tuple[Function, Tensor, np.ndarray, np.ndarray]:
    """The first 10,000 images of MNIST."""
    from thalweg.datasets import mnist

    table = mnist()
    n = 1000 if small else 10_000
    data, labels = table.X[:n].double().reshape(n, -1), table.y[:n]

    def loss(w: Tensor) -> Tensor:
        return functional.cross_entropy(data @ w.reshape(784, 10), labels) + w @ w / (2 * n)

    return loss, torch.zeros(7840, dtype=torch.float64), data.numpy(), labels.numpy()


def fit(name: str, make: Callable[[bool], Any], rounds: int, small: bool) -> dict[str, Any]:
    """Seconds of every side to a gradient `ACCURACY` of the first one; scikit-learn's tolerance is tightened until it is there."""
    from sklearn.linear_model import LogisticRegression

    loss, x0, X, y = make(small)
    both = value_and_gradient(loss)
    goal = ACCURACY * float(np.abs(both(x0.numpy())[1]).max())

    def reached(w: np.ndarray) -> float:
        return float(np.abs(both(np.ascontiguousarray(w))[1]).max()) / goal

    def ours() -> tuple[float, int]:
        result = minimize(loss, x0, tol=goal, convex=True)
        return reached(result.x.numpy()), result.evaluations.f + result.evaluations.products

    def scipys() -> tuple[float, int]:
        options = {"gtol": goal, "ftol": 0.0, "maxiter": 100_000, "maxfun": 100_000}
        end = optimize.minimize(both, x0.numpy(), jac=True, method="L-BFGS-B", options=options)
        return reached(end.x), end.nfev

    def learns(tol: float) -> tuple[float, int]:
        model = LogisticRegression(C=1.0, tol=tol, max_iter=100_000, fit_intercept=False)
        model.fit(X, y)
        w = model.coef_[0] if len(model.coef_) == 1 else model.coef_.T.reshape(-1)
        return reached(w), int(model.n_iter_[0])

    tol = goal
    while learns(tol)[0] > 1 and tol > 1e-16:
        tol /= 3
    sides: dict[str, Callable[[], tuple[float, int]]] = {"thalweg": ours, "scipy": scipys, "scikit-learn": lambda: learns(tol)}
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    told: dict[str, tuple[float, int]] = {}
    for _ in range(rounds):
        for side, solve in sides.items():
            began = perf_counter()
            told[side] = solve()
            seconds[side].append(perf_counter() - began)
    row: dict[str, Any] = {"row": name, **{side: statistics.median(found) for side, found in seconds.items()}}
    row |= {"evaluations": {side: count for side, (_, count) in told.items()}, "reached": {side: far for side, (far, _) in told.items()}}
    row["ratio"] = min(row["scipy"], row["scikit-learn"]) / row["thalweg"]
    return row | {"promise": None if small else FIT, "kept": small or row["ratio"] >= FIT}


# --- lanes


def lanes(name: str, n: int, rounds: int) -> dict[str, Any]:
    """1,024 starts around the usual one, to a gradient of 1e-6."""
    function = shelf("functions")[name]
    generator = torch.Generator().manual_seed(0)
    usual = function.start(n if function.sizes else None)
    starts = usual + 0.2 * torch.randn(COUNT, n, dtype=torch.float64, generator=generator)
    both, ours, theirs = value_and_gradient(function), [], []
    minimize(function, starts[:2], method="bfgs", batched=True, max_iterations=2)
    for _ in range(rounds):
        began = perf_counter()
        result = minimize(function, starts, method="bfgs", tol=1e-6, batched=True)
        ours.append(perf_counter() - began)
        began = perf_counter()
        for x in starts[:TIMED].numpy():
            optimize.minimize(both, x, jac=True, method="BFGS", options={"gtol": 1e-6})
        theirs.append((perf_counter() - began) * COUNT / TIMED)
    row = {"row": f"{name} {n}", "thalweg": statistics.median(ours), "scipy": statistics.median(theirs), "minima": sum(result.success)}
    row["ratio"] = row["scipy"] / row["thalweg"]
    return row | {"promise": LANES, "kept": row["ratio"] >= LANES}


# --- what is said of it


def told(results: Mapping[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    """(title, heads, rows) of every table."""
    counts = [[r["row"], f"{r['ours']:.0f}", f"{r['theirs']:.0f}", f"{r['fewer']} of {len(r['problems'])}", str(r["solved"]),
               cell(r["kept"], "")]
              for r in results["evaluations"]]  # fmt: skip
    costs = [[r["row"], f"{r['thalweg']:.0f}", f"{r['scipy']:.0f}", f"{r['ratio']:.2f}", cell(r["kept"], "")] for r in results["overhead"]]
    fits = [[r["row"], *(f"{r[side]:.2f} ({r['evaluations'][side]})" for side in ("thalweg", "scipy", "scikit-learn")), f"{r['ratio']:.2f}",
             cell(r["kept"], "")] for r in results["fits"]]  # fmt: skip
    many = [[r["row"], f"{r['thalweg']:.3f}", f"{r['scipy']:.2f}", f"{r['ratio']:.0f}", str(r["minima"]), cell(r["kept"], "")]
            for r in results["lanes"]]  # fmt: skip
    return [
        ("Evaluations at the same accuracy, medians", ["method", "thalweg", "scipy", "no more", "minima found", "kept"], counts),
        ("Microseconds an iteration besides callbacks", ["", "thalweg", "scipy", "thalweg / scipy", "kept"], costs),
        (
            "Seconds (evaluations, scikit-learn: iterations)",
            ["fit", "thalweg", "scipy", "scikit-learn", "fastest peer / thalweg", "kept"],
            fits,
        ),
        (f"Seconds for {COUNT:,} starts", ["problem", "thalweg", "scipy", "scipy / thalweg", "minima found", "kept"], many),
    ]


def page(results: Mapping[str, Any], accelerator: Mapping[str, Any] | None = None) -> str:
    """The results as the docs show them."""
    lines = [measured_on(results), ""]
    for title, heads, rows in told(results):
        lines += [f"{title}:", "", *tabular(heads, rows), ""]
    return "\n".join(lines).rstrip() + "\n"


def missed(results: Mapping[str, Any]) -> list[str]:
    said = [f"{r['row']}: {r['ours']:.0f} evaluations, scipy {r['theirs']:.0f}" for r in results["evaluations"] if not r["kept"]]
    for kind in ("overhead", "fits", "lanes"):
        said += [f"{r['row']}: {r['ratio']:.2f}, {r['promise']:g} is promised" for r in results[kind] if not r["kept"]]
    return said


def main(arguments: Sequence[str] | None = None) -> int:
    parser = parser_of(__doc__, "minimize")
    parser.add_argument("--quick", action="store_true", help="few turns and small fits, of which nothing is promised")
    parser.add_argument("--only", choices=("evaluations", "overhead", "fits", "lanes"), help="this part alone; not for --save")
    options: argparse.Namespace = parser.parse_args(arguments)
    if options.docs:
        refill("minimize", FORMAT, page)
        return 0
    if options.save and (options.quick or options.only):
        parser.error("a part or a quick run is not for --save; use --json PATH")
    rounds = SMALL if options.quick else ROUNDS
    parts: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "evaluations": lambda: [evaluations(method) for method in PEERS],
        "overhead": lambda: [overhead(rounds)],
        "fits": lambda: [
            fit(name, make, SMALL, options.quick) for name, make in (("logistic regression", logistic), ("softmax, MNIST", softmax))
        ],
        "lanes": lambda: [lanes(name, n, SMALL) for name, n in SIZES],
    }
    results, saved = begun("minimize", FORMAT, options, options.quick)
    for kind, measure in parts.items():
        results[kind] = measure() if options.only in (None, kind) else []
        print(f"{kind}: measured" if results[kind] else f"{kind}: left out", file=sys.stderr, flush=True)
    results["whole"] = not options.quick and not options.only
    for title, heads, rows in told(results):
        if rows:
            print(f"\n{title}\n{line(heads[0], heads[1:], [24] * (len(heads) - 1))}")
            print("\n".join(line(row[0], row[1:], [24] * (len(row) - 1)) for row in rows))
    return ended(keep(results, options.json, saved, None), missed(results))


if __name__ == "__main__":
    sys.exit(main())
