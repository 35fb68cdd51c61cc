"""What the accept functions share when they release tasks: the lanes that are free, and the rates that are drawn on."""

from __future__ import annotations

from typing import Final

from tacoq_manager.store.draw import DRAW

# The leader row, read FOR KEY SHARE, says whether the lead still holds, and by which limits, and lets a takeover wait.
# OFFSET keeps the look into each lane a look by itself: as a join, planned while nothing is pending, it would read all
# that is pending, whatever lane it is in.
_FREE_LANES: Final = """
CREATE OR REPLACE FUNCTION pg_temp.tacoq_free_lanes(
    queues text[], kinds text[], keys text[], priorities smallint[], lead_epoch bigint, lead_holder uuid,
    lead_limits bigint
) RETURNS int[] LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM leader
    WHERE leader.epoch = lead_epoch AND leader.holder = lead_holder AND leader.expires_at > clock_timestamp()
      AND leader.limits = lead_limits
    FOR KEY SHARE;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    RETURN ARRAY(
        SELECT lane.number
        FROM unnest(queues, kinds, keys, priorities) WITH ORDINALITY AS lane (queue, kind, key, priority, number)
        WHERE NOT EXISTS (
            SELECT FROM tasks AS t
            WHERE t.state = 'pending' AND t.queue = lane.queue AND t.kind = lane.kind AND t.fairness_key = lane.key
              AND t.priority = lane.priority
            OFFSET 0
        )
    );
END
$$
"""

_DRAW: Final = f"""
CREATE OR REPLACE FUNCTION pg_temp.tacoq_draw(
    fresh uuid[], rated_queues text[], rated_kinds text[], rates float8[], key_rates float8[]
) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    WITH taken AS MATERIALIZED (
        SELECT t.queue, t.kind, t.fairness_key, count(*) AS tasks
        FROM unnest(fresh) AS u (id)
        CROSS JOIN LATERAL (
            SELECT queue, kind, fairness_key FROM tasks WHERE tasks.id = u.id AND tasks.state = 'queued' OFFSET 0
        ) AS t
        GROUP BY t.queue, t.kind, t.fairness_key
    ),
    rated AS MATERIALIZED (
        SELECT * FROM unnest(rated_queues, rated_kinds, rates, key_rates) AS r (queue, kind, rate, key_rate)
    )
    {DRAW};
END
$$
"""

DIRECT_FUNCTIONS: Final = f"{_FREE_LANES};{_DRAW}"
