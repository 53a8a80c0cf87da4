"""The store: a study's database, written by one process, a group at a time, each group in one transaction.

A process that is killed leaves finished groups whole and nothing of the others. The URL is SQLAlchemy's; SQLite by default.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import sqlalchemy as sa

from thalweg.engine.work import Curve, Outcome
from thalweg.errors import UserError
from thalweg.study.courses import CURVATURES
from thalweg.study.plan import Group, Job

SCHEMA = 2
PATIENCE = 60
"""Seconds for which one process waits for another that has the database file in hand."""

tables = sa.MetaData()
meta = sa.Table("meta", tables, sa.Column("key", sa.String, primary_key=True), sa.Column("value", sa.Text, nullable=False))
groups = sa.Table(
    "groups",
    tables,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("phase", sa.String, nullable=False),
    sa.Column("engine", sa.String, nullable=False),
    sa.Column("lanes", sa.Integer, nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),
    sa.Column("curves", sa.LargeBinary, nullable=False),  # a compressed npz of all lanes' arrays
)
runs = sa.Table(
    "runs",
    tables,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("group_id", sa.ForeignKey("groups.id"), nullable=False, index=True),
    sa.Column("lane", sa.Integer, nullable=False),
    sa.Column("phase", sa.String, nullable=False),
    sa.Column("optimizer", sa.String, nullable=False),
    sa.Column("trial", sa.Integer, nullable=False),
    sa.Column("seed", sa.Integer, nullable=False),
    sa.Column("config", sa.Text, nullable=False),
    sa.Column("status", sa.String, nullable=False),
    sa.Column("diverged_at", sa.Integer, nullable=False),
    sa.Column("steps", sa.Integer, nullable=False),
    sa.Column("engine", sa.String, nullable=False),
    sa.Column("scores", sa.Text, nullable=False),  # train_loss, valid_<metric>, test_<metric>, curvatures
)


class Store:
    """An open database of one study. Raises UserError for a file that is no study, or one of another version."""

    def __init__(self, url: str, create: bool = True) -> None:
        options: dict[str, Any] = {}
        if url == "sqlite://":  # in memory: one connection holds it
            options = {"poolclass": sa.StaticPool, "connect_args": {"check_same_thread": False}}
        elif url.startswith("sqlite"):  # no connection outlives its use
            # a reader may hold the file for a moment; the writer waits for it
            options = {"poolclass": sa.NullPool, "connect_args": {"timeout": PATIENCE}}
        self.url = url
        self.engine = sa.create_engine(url, **options)
        try:
            known = set(sa.inspect(self.engine).get_table_names())
            new = create and known <= set(tables.tables) and ("meta" not in known or self.get("schema") is None)
            if new:  # or cut off while it was being made
                tables.create_all(self.engine)
                self.put(schema=SCHEMA)
            elif "meta" not in known or self.get("schema") is None:
                raise UserError(f"{self._place} is a database, but not of a thalweg study; choose another folder with --out")
        except sa.exc.DBAPIError as error:
            raise UserError(f"{self._place} cannot be opened as a study's database ({error.orig}); choose another folder") from None
        version = self.get("schema")
        if version != SCHEMA:
            raise UserError(
                f"{self._place} was written by another version of thalweg (database version {version}, this one reads {SCHEMA}); "
                "use that version, or choose another folder with --out"
            )

    @property
    def _place(self) -> str:
        return sa.make_url(self.url).database or self.url

    def close(self) -> None:
        self.engine.dispose()

    # --- what is known of the study as a whole

    def put(self, **values: Any) -> None:
        """Store all of these or, if this is interrupted, none."""
        with _undisturbed(), self.engine.begin() as connection:
            connection.execute(sa.delete(meta).where(meta.c.key.in_(values)))
            connection.execute(sa.insert(meta), [{"key": key, "value": json.dumps(value)} for key, value in values.items()])

    def get(self, key: str, default: Any = None) -> Any:
        with self.engine.connect() as connection:
            text = connection.execute(sa.select(meta.c.value).where(meta.c.key == key)).scalar()
        return default if text is None else json.loads(text)

    # --- runs

    def finished(self) -> set[str]:
        """The ids of the runs that are stored."""
        with self.engine.connect() as connection:
            return set(connection.execute(sa.select(runs.c.id)).scalars())

    def write(
        self, group: Group, outcomes: Sequence[Outcome], engine: str, seconds: float, steps: int, more: Sequence[Mapping[str, float]] = ()
    ) -> None:
        """Store a group: all its runs and curves, or, if this is interrupted, nothing. more: further figures of each run."""
        rows = [
            {
                "id": job.id, "group_id": group.id, "lane": k, "phase": job.phase, "optimizer": job.optimizer, "trial": job.trial,
                "seed": job.seed, "config": json.dumps(dict(job.config)), "status": status(outcome), "diverged_at": outcome.diverged_at,
                "steps": outcome.stopped_at if outcome.stopped_at >= 0 else steps, "engine": engine,
                "scores": json.dumps({**scores(job, outcome), **(more[k] if more else {})}),
            }
            for k, (job, outcome) in enumerate(zip(group.jobs, outcomes, strict=True))
        ]  # fmt: skip
        head = {
            "id": group.id, "phase": group.jobs[0].phase, "engine": engine, "lanes": len(group.jobs), "seconds": seconds,
            "curves": _pack([outcome.curve for outcome in outcomes]),
        }  # fmt: skip
        with _undisturbed(), self.engine.begin() as connection:
            connection.execute(sa.insert(groups).values(**head))
            connection.execute(sa.insert(runs), rows)

    def table(self, metrics: Iterable[str]) -> pd.DataFrame:
        """A row a run, in a fixed order; the columns of `Results.runs`. Nothing in it depends on the clock.

        What was measured of no run has no column.
        """
        with self.engine.connect() as connection:
            found = connection.execute(sa.select(runs)).mappings().all()
        names = ["train_loss", *(f"{split}_{m}" for split in ("valid", "test") for m in metrics)]
        records, figures = [], [json.loads(row["scores"]) for row in found]
        names += [name for name in CURVATURES if any(name in values for values in figures)]
        for row, values in zip(found, figures, strict=True):
            keys = ("id", "phase", "optimizer", "trial", "seed")
            record = {k: row[k] for k in keys} | {"config": json.loads(row["config"])}
            record |= {k: row[k] for k in ("status", "diverged_at", "steps", "engine")}
            records.append(record | {n: _number(values.get(n)) for n in names})
        columns = ["id", "phase", "optimizer", "trial", "seed", "config", "status", "diverged_at", "steps", "engine", *names]
        frame = pd.DataFrame(records, columns=columns)
        order = frame["phase"].map({"sweep": 0, "tune": 0, "final": 1})
        return frame.assign(_order=order).sort_values(["_order", "optimizer", "trial", "seed"], kind="stable", ignore_index=True).drop(
            columns="_order"
        )

    def curves(self) -> dict[str, Curve]:
        """Run id -> its curve."""
        with self.engine.connect() as connection:
            found = connection.execute(sa.select(runs.c.id, runs.c.group_id, runs.c.lane)).all()
            packed = connection.execute(sa.select(groups.c.id, groups.c.curves)).all()
        opened = {row.id: _unpack(row.curves) for row in packed}
        return {run: opened[group][lane] for run, group, lane in found}

    def seconds(self) -> dict[str, float]:
        """Phase -> seconds spent in its groups."""
        query = sa.select(groups.c.phase, sa.func.sum(groups.c.seconds)).group_by(groups.c.phase)
        with self.engine.connect() as connection:
            return {phase: float(total) for phase, total in connection.execute(query)}


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Hold Ctrl-C back while a transaction is written, and let it through after."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[Any] = []
    before = signal.signal(signal.SIGINT, lambda *what: came.append(what))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came and callable(before):
        before(*came[0])


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def status(outcome: Outcome) -> str:
    """How a run ended: "done", "diverged", or "stopped" early, with the score it had then."""
    return "diverged" if outcome.diverged_at >= 0 else "stopped" if outcome.stopped_at >= 0 else "done"


def scores(job: Job, outcome: Outcome) -> dict[str, float | None]:
    """A run's figures: the mean training loss of its last tenth, the last validation metrics, the test metrics."""
    curve = outcome.curve
    tail = curve.loss[-max(1, len(curve.loss) // 10) :]
    values: dict[str, float] = {"train_loss": float(np.mean(tail)) if len(tail) else math.nan}
    if outcome.diverged_at < 0:
        values |= {f"valid_{name}": float(column[-1]) for name, column in curve.valid.items() if len(column)}
        values |= {f"test_{name}": value for name, value in outcome.test.items()}
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def _pack(curves: Sequence[Curve]) -> bytes:
    arrays: dict[str, np.ndarray] = {}
    for k, curve in enumerate(curves):
        arrays |= {f"{k}/{name}": getattr(curve, name) for name in ("steps", "loss", "grad_norm", "lr", "eval_steps")}
        arrays |= {f"{k}/valid/{name}": values for name, values in curve.valid.items()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def _unpack(blob: bytes) -> list[Curve]:
    lanes: dict[int, dict[str, Any]] = {}
    with np.load(io.BytesIO(blob), allow_pickle=False) as stored:
        for key in stored.files:
            lane, _, name = key.partition("/")
            lanes.setdefault(int(lane), {"valid": {}})
            if name.startswith("valid/"):
                lanes[int(lane)]["valid"][name.removeprefix("valid/")] = stored[key]
            else:
                lanes[int(lane)][name] = stored[key]
    return [Curve(**lanes[k]) for k in sorted(lanes)]


def open_folder(folder: Path, create: bool = False) -> Store:
    """The store of a study's folder. Raises UserError where there is none."""
    path = folder / "study.db"
    if not create and not path.is_file():
        raise UserError(f"{folder} holds no study (there is no study.db in it); name the folder that compare or sweep wrote")
    return Store(address(path), create)


def address(path: Path) -> str:
    """The URL of a database file, whatever its name holds."""
    return sa.URL.create("sqlite", database=str(path)).render_as_string()


def flat(table: pd.DataFrame) -> pd.DataFrame:
    """The table of runs with a column for each hyperparameter, for CSV, JSON and Parquet."""
    names = list(dict.fromkeys(n for config in table["config"] for n in config))
    place = list(table.columns).index("config")
    columns: Mapping[str, Any] = {n: [config.get(n) for config in table["config"]] for n in names}
    left, right = table.iloc[:, :place], table.iloc[:, place + 1 :]
    return pd.concat([left, pd.DataFrame(columns, index=table.index), right], axis=1)
