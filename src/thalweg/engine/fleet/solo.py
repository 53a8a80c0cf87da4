"""Solo: one lane at a time, as a plain training loop would go: what a single run needs, and what worker processes do."""

from __future__ import annotations

from thalweg.engine.fleet import fleet
from thalweg.engine.work import Outcome, Progress, Work


def run(work: Work, progress: Progress | None = None, taped: bool | None = None, ahead: int | None = None) -> list[Outcome]:
    """Train the lanes of the work one after the other; one outcome a lane, in order.

    ahead: steps for which a recording serves, where works of the same kind follow.
    """
    ahead = max(ahead or 0, work.steps * len(work.lanes))
    return [outcome for lane in work.lanes for outcome in fleet.run(work.with_lanes([lane]), progress, "auto", taped, ahead)]
