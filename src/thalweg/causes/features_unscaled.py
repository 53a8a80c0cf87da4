"""Features of very different sizes, or very large ones: the loss is steep along some weights and flat along others, and no one rate suits
all. LeCun et al. 1998, doi:10.1007/3-540-49430-8_2, section 4.3"""

from __future__ import annotations

import math

import numpy as np

from thalweg.core.cause import cause
from thalweg.core.finding import Finding


@cause(explains=("rate_too_high", "rate_too_low", "exploding_gradients", "vanishing_gradients", "dead_units", "batch_too_small",
                 "momentum_too_high", "gradients_accumulate", "decay_too_strong"))  # fmt: skip
def features_unscaled(table, course=None, settings=None, rates_scaled=None, curvature=None) -> Finding | None:
    if not table.unscaled:
        return None
    sizes = np.hypot(table.means, table.deviations)
    order = np.argsort(-sizes)
    largest, least = order[0], order[-1]
    names = [table.names[i] for i in order if sizes[i] > 3 * table.usual][:3] or [table.names[largest]]
    said = f"The features' sizes go from {sizes[largest]:.3g}, of {table.names[largest]} (mean {table.means[largest]:.3g}, deviation "
    said += f"{table.deviations[largest]:.3g}), to {sizes[least]:.3g}, of {table.names[least]}."
    numbers = {"harm": table.harm, "condition": table.condition, "condition_scaled": table.condition_scaled, "usual": table.usual}
    if table.condition < 1e14:
        said += f" The condition number of the features with a constant is {table.condition:.2g}; standardised it is "
        said += f"{table.condition_scaled:.2g}."
    else:
        said += f" The loss is {table.harm:.2g} times as steep along its steepest direction as it would be were they standardised."
    stable = getattr(curvature, "stable_rate", None)
    if stable is not None and math.isfinite(stable):
        said += f" The curvature allows no rate above {stable:.2g}" + (f"; yours is {settings.begun:.2g}." if settings is not None else ".")
        numbers["stable_rate"] = float(stable)
    if course is not None:
        said += f" {course.words}"
    surely = table.harm > 100 or table.usual > 60 or table.condition_scaled * 1e3 < table.condition < 1e14
    remedy, change = _remedy(settings, rates_scaled)
    title = f"The features are not scaled: {', '.join(names)} {'is' if len(names) == 1 else 'are'} far larger than others."
    if not table.uneven:
        title = f"The features are large: a usual one is of the size {table.usual:.3g}."
    return Finding(
        "features_unscaled", title, said, remedy,
        0.94 if surely else 0.85, change, numbers,
    )  # fmt: skip


def _remedy(settings, rates_scaled) -> tuple[str, dict[str, object]]:
    """Standardise; and another rate, where the user's is far from the one that is best then."""
    change: dict[str, object] = {"standardize": True}
    if settings is not None and settings.command.get("suggested"):
        change |= settings.command["suggested"]
        return settings.line(**change) + settings.command.get("or", ""), change
    if rates_scaled is not None and rates_scaled.learns and not 0.1 < rates_scaled.best / settings.begun < 10:
        change["lr"] = float(rates_scaled.best)
    if settings is not None and settings.command:
        return settings.line(**change), change
    line = "X = (X - X.mean(0)) / X.std(0), with the training rows' mean and deviation for all rows"
    if "lr" in change:
        line += f"; then {settings.line(lr=change['lr'])}"
    return line, change
