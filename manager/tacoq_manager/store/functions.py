"""The accept function, made in the temporary schema of the connection that calls it: it always fits the code at hand.

Two statements inside, and the order matters. The insert may wait for a row that another transaction is just moving to
the history; its snapshot is then older than that move, so only a second statement, with a fresh snapshot, can see that
the task had already ended, and takes the row back out.
"""

from __future__ import annotations

from typing import Final

ACCEPT_FUNCTION: Final = """
CREATE OR REPLACE FUNCTION pg_temp.tacoq_accept(
    ids uuid[], kinds text[], queues text[], priorities smallint[], fairness_keys text[], payloads bytea[],
    fingerprints bytea[], delays float8[], run_ats timestamptz[], expiry_delays float8[], expires_ats timestamptz[],
    attempt_limits int[], timeouts float8[], retries_of uuid[], traceparents text[], tracestates text[],
    queues_given boolean[]
) RETURNS TABLE (id uuid, state text, duplicate boolean) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    fresh uuid[];
    ended uuid[];
    clashing text;
BEGIN
    WITH inserted AS (
        INSERT INTO tasks (id, kind, queue, priority, fairness_key, payload, fingerprint, run_at, expires_at,
                           max_attempts, timeout, retry_of, traceparent, tracestate, queue_given, state)
        SELECT u.id, u.kind, u.queue, u.priority, u.fairness_key, u.payload, u.fingerprint, due.at,
            coalesce(u.expires_at, now() + make_interval(secs => u.expires_in)), u.max_attempts, u.timeout,
            u.retry_of, u.traceparent, u.tracestate, u.queue_given,
            CASE WHEN due.at > now() THEN 'scheduled' ELSE 'pending' END
        FROM unnest(ids, kinds, queues, priorities, fairness_keys, payloads, fingerprints, delays, run_ats,
                    expiry_delays, expires_ats, attempt_limits, timeouts, retries_of, traceparents, tracestates,
                    queues_given)
            AS u (id, kind, queue, priority, fairness_key, payload, fingerprint, delay, run_at, expires_in, expires_at,
                  max_attempts, timeout, retry_of, traceparent, tracestate, queue_given)
        CROSS JOIN LATERAL (
            SELECT coalesce(u.run_at, now() + make_interval(secs => u.delay), now()) AS at
        ) AS due
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

    IF ended IS NULL AND cardinality(fresh) = cardinality(ids) THEN
        RETURN QUERY
        SELECT t.id, t.state, false FROM unnest(ids) AS u (id)
        CROSS JOIN LATERAL (SELECT tasks.id, tasks.state FROM tasks WHERE tasks.id = u.id OFFSET 0) AS t;
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
    SELECT u.id, t.state, NOT coalesce(u.id = ANY (fresh), false) OR coalesce(u.id = ANY (ended), false)
    FROM unnest(ids) AS u (id)
    CROSS JOIN LATERAL (
        SELECT tasks.state FROM tasks WHERE tasks.id = u.id
        UNION ALL
        SELECT h.state FROM task_history AS h WHERE h.id = u.id
        OFFSET 0
    ) AS t;
END
$$
"""
