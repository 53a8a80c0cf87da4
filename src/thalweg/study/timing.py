"""Seconds of runs that are trained alone: the only seconds in which optimizers can be compared."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from thalweg.engine.fleet.trial import pace
from thalweg.study import plan
from thalweg.study.prepare import Bench
from thalweg.study.store import Store, groups, runs


def time_finalists(bench: Bench, jobs: Sequence[plan.Job], store: Store) -> None:
    """Rerun each finalist for a moment alone, its first seed, and store optimizer -> seconds of an update; what is stored stays.

    One that diverges at once has None.
    """
    paces: dict[str, float | None] = store.get("pace", {})
    for label in dict.fromkeys(job.optimizer for job in jobs):
        if label in paces:
            continue
        job = next(job for job in jobs if job.optimizer == label)
        paces[label] = pace(bench.work([job]))
        store.put(pace=paces)


def solo_seconds(store: Store) -> dict[str, float]:
    """Run id -> its wall seconds, evaluations included, of the phases that one process trained a run at a time (engine "solo")."""
    phases = store.get("plan", {}).get("phases", {})
    alone = [phase for phase, choice in phases.items() if choice["engine"] == "solo" and choice["workers"] == 1]
    query = sa.select(runs.c.id, groups.c.seconds).join(groups, runs.c.group_id == groups.c.id)
    query = query.where(groups.c.lanes == 1, groups.c.phase.in_(alone))
    with store.engine.connect() as connection:
        return {run: float(seconds) for run, seconds in connection.execute(query)}
