"""Draw: what a statement released in; the tokens that it used, taken from their buckets by the same statement, out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

# Part of a statement that has `taken (queue, kind, fairness_key, tasks)` and `rated (queue, kind, rate, key_rate)`, in
# tokens per second: of a queue where the kind is NULL, else of a kind and of each of its keys. On the clock of the
# database, so that a new leader goes on where the last one was. Two statements lock buckets in the same order. Tokens
# come by the rate that holds now, when it was changed since the last draw.
DRAW: Final = """
INSERT INTO buckets AS b (queue, kind, fairness_key, tokens, as_of, rate)
SELECT d.queue, d.kind, d.fairness_key, greatest(1, d.rate) - d.tasks, now(), d.rate
FROM (
    SELECT t.queue, NULL AS kind, NULL AS fairness_key, sum(t.tasks) AS tasks, r.rate
    FROM rated AS r JOIN taken AS t ON t.queue = r.queue WHERE r.kind IS NULL GROUP BY t.queue, r.rate
    UNION ALL
    SELECT t.queue, t.kind, NULL, sum(t.tasks), r.rate
    FROM rated AS r JOIN taken AS t ON t.queue = r.queue AND t.kind = r.kind
    WHERE r.rate IS NOT NULL GROUP BY t.queue, t.kind, r.rate
    UNION ALL
    SELECT t.queue, t.kind, t.fairness_key, t.tasks, r.key_rate
    FROM rated AS r JOIN taken AS t ON t.queue = r.queue AND t.kind = r.kind WHERE r.key_rate IS NOT NULL
) AS d
ORDER BY d.queue, d.kind, d.fairness_key
ON CONFLICT (queue, kind, fairness_key) DO UPDATE SET
    tokens = excluded.tokens - greatest(1, excluded.rate) + least(
        greatest(1, excluded.rate),
        b.tokens + excluded.rate * extract(epoch FROM excluded.as_of - b.as_of)::float8
    ),
    as_of = excluded.as_of,
    rate = excluded.rate
"""


class Rated(NamedTuple):
    """What is drawn on, in tokens per second: by a queue, or, with a kind, by it and by each of its keys."""

    queue: str
    kind: str | None
    rate: float | None
    key_rate: float | None = None


def columns(rates: Sequence[Rated]) -> tuple[list[object], ...]:
    """As arrays for `unnest`."""
    return tuple(list(column) for column in zip(*rates, strict=True)) if rates else ([], [], [], [])
