"""Numbers as people write them: settings, scores with their intervals, lists of names."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any


def number(value: Any, digits: int = 2) -> str:
    """A hyperparameter: plain where that is short, otherwise with an exponent without padding.

    >>> number(0.0031415), number(0.01), number(0.9995), number(1e-8), number(True), number("huber")
    ('3.1e-3', '0.01', '0.9995', '1e-8', 'true', 'huber')
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str) or not isinstance(value, int | float):
        return str(value)
    if not math.isfinite(value):
        return "–" if math.isnan(value) else ("∞" if value > 0 else "−∞")
    if isinstance(value, int) or value == 0:
        return f"{value:g}" if abs(value) < 1e6 else exponent(value, digits)
    if 0.01 <= abs(value) < 1000:
        # four digits near 1, where a decay of 0.9995 must not become 1
        return f"{value:.{4 if 0.9 <= abs(value) < 1 else digits + 1}g}"
    return exponent(value, digits)


def exponent(value: float, digits: int) -> str:
    """`digits` significant digits with an exponent, as in 3.1e-3; trailing zeros fall away."""
    mantissa, _, power = f"{value:.{digits - 1}e}".partition("e")
    mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    return f"{mantissa}e{int(power)}"


def setting(config: Mapping[str, Any] | None) -> str:
    """A configuration in words, the learning rate first; "defaults" where nothing was set.

    >>> setting({"beta1": 0.95, "lr": 0.0031})
    'lr 3.1e-3, beta1 0.95'
    """
    if not config:
        return "defaults"
    names = sorted(config, key=lambda name: name != "lr")  # stable: the rest keeps its order
    return ", ".join(f"{name} {number(config[name])}" for name in names)


def listing(names: Sequence[str], most: int = 5) -> str:
    """Names joined by commas and "and"; a long list ends in "and 4 others".

    >>> listing(["adam"]), listing(["adam", "sgd", "lion"])
    ('adam', 'adam, sgd and lion')
    """
    names = list(names)
    if len(names) > most:
        names = [*names[: most - 1], f"{len(names) - most + 1} others"]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else ""


def plural(count: int, noun: str) -> str:
    """A count with its noun: 1 seed, 5 seeds."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def is_share(score: str) -> bool:
    """Whether a score is a share of rows, shown in percent."""
    return score.endswith("accuracy")


def amount(value: float, score: str, half: float = math.nan, unit: bool = True) -> str:
    """A score with the half-width of its interval, to the digits that the interval leaves meaning.

    >>> amount(0.97812, "accuracy", 0.0031), amount(0.97812, "accuracy"), amount(0.34567, "loss", 0.0123)
    ('97.8 ± 0.3 %', '97.8 %', '0.346 ± 0.012')
    """
    if value is None or math.isnan(value):
        return "–"
    if is_share(score):
        value, half = 100 * value, 100 * half
        decimals = 1 if not 0 < half < 0.095 else 2
        if 100 > value > 99.95:  # never round to a perfect score
            decimals = 2
        spread = "" if math.isnan(half) else f" ± {half:.{decimals}f}"
        return f"{value:.{decimals}f}{spread}{' %' if unit else ''}"
    if not math.isfinite(value):
        return number(value)
    size = max(abs(value), half if math.isfinite(half) else 0.0)
    if size and not 1e-3 <= size < 1e5:
        return exponent(value, 4) + ("" if math.isnan(half) else f" ± {exponent(half, 2) if half else 0}")
    if math.isnan(half) or half == 0:
        return f"{_significant(value, 4)}{'' if math.isnan(half) else ' ± 0'}"
    # two digits of the half-width, but no more than six of the value
    decimals = min(max(0, 1 - math.floor(math.log10(half))), max(0, 5 - math.floor(math.log10(size))))
    return f"{value:.{decimals}f} ± {half:.{decimals}f}"


def gap(value: float, score: str, half: float = math.nan) -> str:
    """A difference of two scores: points for shares, the score's own unit otherwise."""
    return amount(value, score, half, unit=False) + (" points" if is_share(score) and not math.isnan(value) else "")


def probability(p: float) -> str:
    """Two digits; never a certainty that a few seeds cannot give.

    >>> probability(0.7123), probability(0.9999)
    ('0.71', 'above 0.99')
    """
    if math.isnan(p):
        return "–"
    return "above 0.99" if p > 0.995 else "below 0.01" if p < 0.005 else f"{p:.2f}"


def p_value(p: float) -> str:
    """A p-value with its sign.

    >>> p_value(0.0337), p_value(3e-5), p_value(1.0)
    ('p = 0.034', 'p < 0.001', 'p = 1')
    """
    return "p unknown" if math.isnan(p) else "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def _significant(value: float, digits: int) -> str:
    """Fixed-point with so many significant digits: 0.3457, 12.35, 1234."""
    if value == 0:
        return "0"
    return f"{value:.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}"
