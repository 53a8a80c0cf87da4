"""The spec of a study: what a TOML file, the command line or Python asks for, checked before any work starts.

In TOML an optimizer is a string as on the command line, or a table:

    problem = "digits-mlp"
    budget = 16
    optimizers = ["sgd", "adam[lr=1e-4..1e-1, beta1=0.9,0.99]"]

    [optimizer.momentum]
    lr = { log = [1e-3, 1.0] }       # a range, drawn evenly in log(lr)
    momentum = [0.9, 0.99]           # a list: one of these
    weight_decay = 1e-4              # a number: fixed
    schedule = ["constant", "cosine"]
    try = [{ lr = 0.1 }]             # tried right after the defaults
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from thalweg.core import catalogue
from thalweg.core.rule import Hyper, Rule
from thalweg.core.wrapper import Wrapper
from thalweg.errors import UserError, unknown

DEFAULT_OPTIMIZERS = ("sgd", "momentum", "rmsprop", "adam", "adamw")


class Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)


class Range(Model):
    """Where a number is searched: between two ends, or among a few values."""

    low: float | None = None
    high: float | None = None
    scale: Literal["log", "linear", "complement"] = "log"
    values: tuple[Any, ...] | None = None


class OptimizerSpec(Model):
    """One competitor: a rule, what is fixed, what is searched, and configurations to try first."""

    label: str
    rule: str
    fixed: dict[str, Any] = Field(default_factory=dict)
    search: dict[str, Range] = Field(default_factory=dict)
    first: tuple[dict[str, Any], ...] = ()


class Spec(Model):
    """A study as resolved; see the fields. Equal specs are the same study."""

    kind: Literal["compare", "sweep"] = "compare"
    problem: str
    target: str | None = None
    model: str | None = None
    loss: str | None = None
    all_rows: bool = False
    standardize: bool | None = None
    optimizers: tuple[OptimizerSpec, ...]
    budget: int = Field(16, ge=1)
    seeds: int = Field(5, ge=1)
    steps: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    evaluations: int = Field(ge=1)
    seed: int = Field(0, ge=0)
    engine: Literal["auto", "fleet", "pool", "solo"] = "auto"
    device: str = "auto"
    stop_early: bool = False
    precision: Literal["full", "bf16"] = "full"
    accumulate: int = Field(1, ge=1)


KEYS = {
    "problem", "target", "model", "loss", "all_rows", "standardize", "optimizers", "optimizer", "schedule", "budget", "seeds", "steps",
    "epochs", "batch_size", "full_batch", "evaluations", "seed", "engine", "device", "kind", "name", "data", "first",
    "stop_early", "precision", "accumulate",
}  # fmt: skip


# --- text of the command line


def parse_optimizer(text: str) -> tuple[str, dict[str, Any]]:
    """Read `name[key=value, ...]`: a number is fixed, several are a list, `a..b` is a range, `a..b*n` is n values from a to b.

    >>> parse_optimizer("sgd[momentum=0.9,0.99, lr=1e-3..1]")
    ('sgd', {'momentum': ['0.9', '0.99'], 'lr': {'log': [0.001, 1.0]}})
    """
    match = re.fullmatch(r"\s*([^\[\]]+?)\s*(?:\[(.*)\])?\s*", text, re.DOTALL)
    if not match:
        raise UserError(f"'{text}' is not an optimizer; write a name, or name[key=value, key=first,second, key=low..high]")
    name, inside = match[1], match[2] or ""
    return name, parse_settings(inside, text)


def parse_settings(inside: str, text: str) -> dict[str, Any]:
    """Read `key=value, key=first,second, key=low..high`."""
    settings: dict[str, list[str]] = {}
    key = None
    # commas inside parentheses belong to a schedule's arguments: cosine(floor=0.1,warmup=100)
    for part in re.split(r"[,;](?![^()]*\))", inside):
        head, equals, tail = part.partition("=")
        if equals and "(" not in head:
            key = head.strip()
            if key in settings:
                raise UserError(f"'{key}' is given twice in '{text}'")
            settings[key] = [tail.strip()]
        elif key is not None:
            settings[key].append(part.strip())
        elif part.strip():
            raise UserError(f"'{part.strip()}' in '{text}' is not key=value")
    return {k: _value(v, f"{k} in '{text}'") for k, v in settings.items()}


def _value(parts: list[str], label: str) -> Any:
    if any(not part for part in parts):
        raise UserError(f"{label} has an empty value")
    if len(parts) == 1 and (many := re.fullmatch(r"([^.].*?)\.\.(.+)\*(\d+)", parts[0])):
        try:
            ends = float(many[1]), float(many[2])
        except ValueError:
            raise UserError(f"{label}: '{parts[0]}' is not a range; write low..high*count, such as 1e-4..1e-1*8") from None
        return _spaced(*ends, int(many[3]), label)
    if len(parts) == 1 and ".." in parts[0]:
        low, _, high = parts[0].partition("..")
        try:
            return {"log": [float(low), float(high)]}
        except ValueError:
            raise UserError(f"{label}: '{parts[0]}' is not a range; write low..high, such as 1e-4..1e-1") from None
    return parts if len(parts) > 1 else parts[0]


def _spaced(low: float, high: float, count: int, label: str) -> list[str]:
    """`low..high*count`: values at equal steps of the logarithm, both ends among them."""
    if not 0 < low < high or count < 2:
        raise UserError(f"{label}: {low:g}..{high:g}*{count} needs 0 < low < high and at least 2 values")
    return [f"{low * (high / low) ** (k / (count - 1)):.6g}" for k in range(count)]


def parse_schedule(text: Any) -> tuple[str, dict[str, Any]]:
    """Read `name` or `name(key=value, ...)` and check the name; several numbers are written with blanks between.

    >>> parse_schedule("cosine(floor=0.1, warmup=50)")
    ('cosine', {'floor': 0.1, 'warmup': 50.0})
    >>> parse_schedule("multistep(milestones=30 60 90, gamma=0.2)")
    ('multistep', {'milestones': [30.0, 60.0, 90.0], 'gamma': 0.2})
    """
    match = re.fullmatch(r"\s*([\w.:/-]+)\s*(?:\((.*)\))?\s*", text if isinstance(text, str) else "")
    if not match:
        raise UserError(f"'{text}' is not a schedule; write a name, or name(key=value)")
    arguments: dict[str, Any] = {}
    for part in filter(None, (p.strip() for p in (match[2] or "").split(","))):
        key, _, number = part.partition("=")
        try:
            several = key.strip() in ("milestones", "values")
            arguments[key.strip()] = [float(n) for n in number.split()] if several else float(number)
        except ValueError:
            raise UserError(f"'{part}' in the schedule '{text}' is not key=number") from None
    catalogue.find("schedules", match[1])
    return match[1], arguments


# --- settings of one optimizer, from text or TOML, to fixed and searched


def optimizer_spec(
    name: str, settings: Mapping[str, Any], rule: Rule, wrappers: Sequence[Wrapper], label: str | None = None
) -> OptimizerSpec:
    """What is fixed, searched and tried first, each value checked against its domain."""
    hypers = {**{n: h for w in wrappers for n, h in w.hypers.items()}, **rule.hypers}
    fixed: dict[str, Any] = {}
    search: dict[str, Range] = {}
    first = []
    for key, value in settings.items():
        if key == "try":
            first = [_point(config, rule, hypers) for config in (value if isinstance(value, list | tuple) else [value])]
        elif key == "schedule":
            names = list(value) if isinstance(value, list | tuple) else [value]
            for text in names:
                parse_schedule(text)
            if "lr" not in rule.hypers:
                raise UserError(f"{rule.name} has no learning rate for a schedule to drive")
            if len(names) > 1:
                search[key] = Range(values=tuple(names))
            else:
                fixed[key] = names[0]
        else:
            _set(key, value, rule, hypers, fixed, search)
    for key, hyper in rule.hypers.items():
        if hyper.domain.tuned and key not in fixed and key not in search:
            search[key] = _range(hyper)
    return OptimizerSpec(label=label or rule.name, rule=name, fixed=fixed, search=search, first=tuple(first))


def _range(hyper: Hyper) -> Range:
    assert hyper.domain.search is not None
    low, high = hyper.domain.search
    return Range(low=low, high=high, scale=hyper.domain.scale)


def _known(key: str, rule: Rule, hypers: Mapping[str, Hyper]) -> Hyper:
    if key not in hypers:
        hint = str(unknown("hyperparameter", key, [*hypers, "schedule", "try"])).partition("; ")[2]
        raise UserError(f"{rule.name} has no '{key}'" + (f"; {hint}" if hint else f"; it takes {', '.join(rule.hypers)}"))
    return hypers[key]


def _read(value: Any, hyper: Hyper, label: str) -> Any:
    return hyper.domain.parse(value, label) if isinstance(value, str) else hyper.domain.check(value, label)


def _set(key: str, value: Any, rule: Rule, hypers: Mapping[str, Hyper], fixed: dict[str, Any], search: dict[str, Range]) -> None:
    hyper = _known(key, rule, hypers)
    label = f"{rule.name}: {key}"
    if isinstance(value, Mapping):
        kind: Any = next(iter(value), "")
        ends = value.get(kind)
        if len(value) != 1 or kind not in ("log", "linear", "complement") or not isinstance(ends, list | tuple) or len(ends) != 2:
            raise UserError(f"{label} = {dict(value)} is not a range; write {{ log = [low, high] }} or {{ linear = [low, high] }}")
        low, high = (_end(end, label) for end in ends)
        domain = hyper.domain.within(low, high, label, kind)
        assert domain.search is not None
        search[key] = Range(low=domain.search[0], high=domain.search[1], scale=domain.scale)
    elif isinstance(value, list | tuple):
        if not value:
            raise UserError(f"{label} = [] leaves nothing to choose from; give at least one value")
        search[key] = Range(values=tuple(_read(v, hyper, label) for v in value))
    else:
        fixed[key] = _read(value, hyper, label)


def _end(value: Any, label: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{label}: the end {value!r} of its range must be a number")
    return float(value)


def _point(config: Any, rule: Rule, hypers: Mapping[str, Hyper]) -> dict[str, Any]:
    if isinstance(config, str):
        config = parse_settings(config, config)
    if not isinstance(config, Mapping):
        raise UserError(f"{rule.name}: a configuration to try is a table such as {{ lr = 0.1 }}, not {config!r}")
    point = {}
    for key, value in config.items():
        if key == "schedule":
            parse_schedule(value)
            point[key] = value
        else:
            point[key] = _read(value, _known(key, rule, hypers), f"{rule.name}: {key} to try")
    return point


# --- a whole spec


def read_toml(path: Path) -> dict[str, Any]:
    """A study's TOML file as plain values."""
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid TOML: {error}") from None


def check_keys(raw: Mapping[str, Any]) -> None:
    """Unknown keys of a spec are errors that name their nearest neighbour."""
    for key in raw:
        if key not in KEYS:
            raise unknown("key of a study", key, KEYS)


def build(raw: Mapping[str, Any], optimizers: Sequence[OptimizerSpec], **resolved: Any) -> Spec:
    """The frozen spec from checked parts; what pydantic refuses becomes one sentence."""
    values = {k: v for k, v in raw.items() if k in Spec.model_fields and v is not None} | resolved
    try:
        return Spec(**{**values, "optimizers": tuple(optimizers)})
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{'.'.join(map(str, first['loc']))} = {first['input']!r}: {first['msg'].lower()}") from None
