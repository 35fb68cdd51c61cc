"""The accept function, made in the temporary schema of the connection that calls it: it always fits the code at hand.

Two statements after each other, and the order matters. The insert may wait for a row that another transaction is just
moving to the history; its snapshot is then older than that move, so only a second statement, with a fresh snapshot, can
see that the task had already ended, and takes the row back out.

`lines` is for the leader, who has room for some of the tasks: the number of the lane in which one stands, NULL for all
others. In a lane where nothing is pending it is released at once, and draws on the rates that are given.
"""

from __future__ import annotations

from typing import Final

from tacoq_manager.store.direct_functions import DIRECT_FUNCTIONS

_ACCEPT: Final = """
CREATE OR REPLACE FUNCTION pg_temp.tacoq_accept(
    ids uuid[], kinds text[], queues text[], priorities smallint[], fairness_keys text[], payloads bytea[],
    fingerprints bytea[], delays float8[], run_ats timestamptz[], expiry_delays float8[], expires_ats timestamptz[],
    attempt_limits int[], timeouts float8[], retries_of uuid[], traceparents text[], tracestates text[],
    queues_given boolean[], lines int[], lane_queues text[], lane_kinds text[], lane_keys text[],
    lane_priorities smallint[], lead_epoch bigint, lead_holder uuid, lead_limits bigint, rated_queues text[],
    rated_kinds text[], rates float8[], key_rates float8[]
) RETURNS TABLE (id uuid, state text, duplicate boolean, created_at timestamptz, expires_at timestamptz)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    fresh uuid[];
    ended uuid[];
    clashing text;
    free int[];
BEGIN
    IF lead_epoch IS NOT NULL THEN
        free := pg_temp.tacoq_free_lanes(
            lane_queues, lane_kinds, lane_keys, lane_priorities, lead_epoch, lead_holder, lead_limits);
    END IF;

    WITH inserted AS (
        INSERT INTO tasks (id, kind, queue, priority, fairness_key, payload, fingerprint, run_at, expires_at,
                           max_attempts, timeout, retry_of, traceparent, tracestate, queue_given, state, release,
                           queued_at)
        SELECT u.id, u.kind, u.queue, u.priority, u.fairness_key, u.payload, u.fingerprint, due.at,
            coalesce(u.expires_at, now() + make_interval(secs => u.expires_in)), u.max_attempts, u.timeout,
            u.retry_of, u.traceparent, u.tracestate, u.queue_given,
            first.state, (first.state = 'queued')::int, CASE WHEN first.state = 'queued' THEN now() END
        FROM unnest(ids, kinds, queues, priorities, fairness_keys, payloads, fingerprints, delays, run_ats,
                    expiry_delays, expires_ats, attempt_limits, timeouts, retries_of, traceparents, tracestates,
                    queues_given, lines)
            AS u (id, kind, queue, priority, fairness_key, payload, fingerprint, delay, run_at, expires_in, expires_at,
                  max_attempts, timeout, retry_of, traceparent, tracestate, queue_given, line)
        CROSS JOIN LATERAL (
            SELECT coalesce(u.run_at, now() + make_interval(secs => u.delay), now()) AS at
        ) AS due
        CROSS JOIN LATERAL (
            SELECT CASE
                WHEN due.at > now() THEN 'scheduled'
                WHEN u.line = ANY (free) THEN 'queued'
                ELSE 'pending'
            END AS state
        ) AS first
        ON CONFLICT (id) DO NOTHING
        RETURNING tasks.id
    )
    SELECT array_agg(inserted.id) INTO fresh FROM inserted;

    SELECT array_agg(u.id) INTO ended
    FROM unnest(fresh) AS u (id)
    CROSS JOIN LATERAL (SELECT 1 FROM task_history AS h WHERE h.id = u.id OFFSET 0) AS h;
    IF ended IS NOT NULL THEN
        DELETE FROM tasks WHERE tasks.id = ANY (ended);
    END IF;

    IF free IS NOT NULL AND cardinality(rated_queues) > 0 THEN
        PERFORM pg_temp.tacoq_draw(fresh, rated_queues, rated_kinds, rates, key_rates);
    END IF;

    IF ended IS NULL AND cardinality(fresh) = cardinality(ids) THEN
        RETURN QUERY
        SELECT t.id, t.state, false, t.created_at, t.expires_at FROM unnest(ids) AS u (id)
        CROSS JOIN LATERAL (
            SELECT tasks.id, tasks.state, tasks.created_at, tasks.expires_at FROM tasks WHERE tasks.id = u.id OFFSET 0
        ) AS t;
        RETURN;
    END IF;

    SELECT string_agg(u.id::text, ',') INTO clashing
    FROM unnest(ids, fingerprints) AS u (id, fingerprint)
    CROSS JOIN LATERAL (
        SELECT tasks.fingerprint FROM tasks WHERE tasks.id = u.id
        UNION ALL
        SELECT h.fingerprint FROM task_history AS h WHERE h.id = u.id
        OFFSET 0
    ) AS t
    WHERE t.fingerprint <> u.fingerprint;
    IF clashing IS NOT NULL THEN
        RAISE EXCEPTION 'task ids are known with other content' USING ERRCODE = 'TQ409', DETAIL = clashing;
    END IF;

    RETURN QUERY
    SELECT u.id, t.state, NOT coalesce(u.id = ANY (fresh), false) OR coalesce(u.id = ANY (ended), false),
        t.created_at, t.expires_at
    FROM unnest(ids) AS u (id)
    CROSS JOIN LATERAL (
        SELECT tasks.state, tasks.created_at, tasks.expires_at FROM tasks WHERE tasks.id = u.id
        UNION ALL
        SELECT h.state, h.created_at, h.expires_at FROM task_history AS h WHERE h.id = u.id
        OFFSET 0
    ) AS t;
END
$$
"""

ACCEPT_FUNCTION: Final = f"{DIRECT_FUNCTIONS};{_ACCEPT}"
