"""Seconds of runs that were trained alone: the only seconds in which optimizers can be compared."""

from __future__ import annotations

import sqlalchemy as sa

from thalweg.study.store import Store, groups, runs


def solo_seconds(store: Store) -> dict[str, float]:
    """Run id -> its wall seconds, evaluations included, of the phases that one process trained a run at a time (engine "solo")."""
    phases = store.get("plan", {}).get("phases", {})
    alone = [phase for phase, choice in phases.items() if choice["engine"] == "solo" and choice["workers"] == 1]
    query = sa.select(runs.c.id, groups.c.seconds).join(groups, runs.c.group_id == groups.c.id)
    query = query.where(groups.c.lanes == 1, groups.c.phase.in_(alone))
    with store.engine.connect() as connection:
        return {run: float(seconds) for run, seconds in connection.execute(query)}
