"""Evidence: measurements by name, each taken when it is first asked for, once, and within a budget of time.

A measurement is a function whose parameters are other measurements' names, or `case`; it may give None where there is nothing to measure.
"""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from thalweg.errors import UserError
from thalweg.explain.case import Case

logger = logging.getLogger(__name__)


class Evidence:
    """What is known of a case. known: name -> value; skipped: name -> why it is missing."""

    def __init__(self, case: Case, measurements: Mapping[str, Callable[..., Any]], seconds: float) -> None:
        self.known: dict[str, Any] = {"case": case}
        self.skipped: dict[str, str] = {}
        self.measurements, self.seconds, self.began = measurements, seconds, time.monotonic()

    def get(self, name: str) -> Any:
        """A measurement, or None where it cannot be had: its own needs are missing, time is up, or the model does not allow it."""
        if name in self.known:
            return self.known[name]
        function = self.measurements[name]
        given = {}
        for key, parameter in inspect.signature(function).parameters.items():
            given[key] = self.get(key)
            if given[key] is None and parameter.default is parameter.empty:
                self.known[name] = None
                return None
        self.known[name] = None
        if time.monotonic() - self.began > self.seconds:
            self.skipped[name] = f"the {self.seconds:g} s were over"
            return None
        try:
            self.known[name] = function(**given)
        except UserError as error:
            self.skipped[name] = str(error)
        except Exception as error:  # a diagnosis that fails on what it diagnoses helps nobody
            logger.debug("no %s", name, exc_info=True)
            said = str(error).splitlines()[0][:200] if str(error) else ""
            self.skipped[name] = f"{type(error).__name__}: {said}"
        return self.known[name]
