"""Aftermath: moves that took place in; what has become final, ended, pending or due by them out. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from tacoq_manager.store.claim import Lane, Line
from tacoq_manager.store.settle import Applied
from tacoq_protocol.http import TaskView
from tacoq_protocol.states import TaskState


@dataclass(slots=True)
class Aftermath:
    """What others have to know of some moves."""

    final: list[UUID] = field(default_factory=list)
    awaited: list[TaskView] = field(default_factory=list)  # of these, what completed while somebody waited for it
    lanes: set[Lane] = field(default_factory=set)  # in which a claim finds other tasks than before
    ended: Counter[Line] = field(default_factory=Counter)  # releases, less those that count as out again
    due: float | None = None  # seconds until the first of them is
    frees_others: bool = False  # one on its last chance ended: others may have theirs


def aftermath(applied: Sequence[Applied]) -> Aftermath:
    """Sum up what these moves mean for those who did not make them."""
    after = Aftermath()
    for move in applied:
        if move.frees_slot:
            after.frees_others = after.frees_others or move.last_chance
            after.ended[move.line] += 1
        elif move.takes_slot:
            after.ended[move.line] -= 1
        if move.state.final:
            after.final.append(move.transition.task_id)
            if move.view is not None:
                after.awaited.append(move.view)
        elif move.state is TaskState.SCHEDULED:
            delay = move.transition.delay or 0.0
            after.due = delay if after.due is None else min(after.due, delay)
        if TaskState.PENDING in (move.was, move.state):  # a claim that waited for it found less than there is
            after.lanes.add(Lane(move.queue, move.kind, move.fairness_key, move.priority))
    return after
