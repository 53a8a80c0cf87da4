"""The spec of a run: everything that determines it, as plain values; equal specs are the same run."""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import Field, ValidationError

from thalweg.errors import UserError
from thalweg.study.spec import Model


class RunSpec(Model):
    """A run as resolved; see the fields.

    settings: hyperparameters of the optimizer, its wrappers and the model. steps, batch_size: of the training; evaluate_every: steps
    between evaluations, or None for none. early_stopping: evaluations without a better validation score after which the run ends.
    valid: the share of the rows set apart for validation, or None for the usual one. layout: whether images go to the model with the
    channels last. fingerprint: of the data and the initial weights.
    """

    problem: str
    target: str | None = None
    model: str | None = None
    loss: str | None = None
    all_rows: bool = False
    standardize: bool | None = None
    valid: float | None = Field(None, ge=0, lt=1)
    optimizer: str
    settings: dict[str, Any] = Field(default_factory=dict)
    schedules: dict[str, str] = Field(default_factory=dict)
    steps: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    evaluate_every: int | None = Field(None, ge=1)
    early_stopping: int | None = Field(None, ge=1)
    seed: int = Field(0, ge=0)
    device: str = "cpu"
    precision: Literal["full", "bf16", "double"] = "full"
    accumulate: int = Field(1, ge=1)
    layout: Literal["auto", "as given", "channels last"] = "auto"
    fingerprint: str = ""


def build(**values: Any) -> RunSpec:
    """The frozen spec; what pydantic refuses becomes one sentence."""
    try:
        return RunSpec(**{name: value for name, value in values.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{'.'.join(map(str, first['loc']))} = {first['input']!r}: {first['msg'].lower()}") from None


def plain(spec: RunSpec) -> dict[str, Any]:
    """A spec as TOML and JSON hold it: no nulls."""
    return json.loads(spec.model_dump_json(exclude_none=True))
