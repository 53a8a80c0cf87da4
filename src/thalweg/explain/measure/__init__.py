"""What causes ask for: each measurement a function of the case and of other measurements, by their names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from thalweg.explain.measure.outputs import outputs
from thalweg.explain.measure.rows import neighbours, table
from thalweg.explain.measure.slopes import curvature, flow, flow_fresh, memory, slopes
from thalweg.explain.measure.state import course, parts, settings
from thalweg.explain.measure.trials import rates, rates_scaled, trials

MEASUREMENTS: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {
        function.__name__: function
        for function in (
            parts, settings, course, table, outputs, neighbours, slopes, memory, flow, flow_fresh, curvature, trials, rates, rates_scaled,
        )
    }
)  # fmt: skip
"""By name, the cheap ones first."""

WORDS: Mapping[str, str] = MappingProxyType(
    {
        "parts": "the layers and their modes",
        "settings": "the optimizer's settings",
        "course": "the history",
        "table": "the data's rows",
        "outputs": "the outputs and the loss",
        "neighbours": "near rows' targets",
        "slopes": "the gradients of batches",
        "memory": "gradients through time",
        "flow": "gradients by layer",
        "flow_fresh": "gradients by layer at fresh weights",
        "curvature": "the curvature against the optimizer's bound",
        "trials": "short trainings at other settings",
        "rates": "short trainings at other rates",
        "rates_scaled": "the same with standardised features",
    }
)
