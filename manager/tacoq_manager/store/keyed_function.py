"""The accept function for tasks with keys; like that of `functions`, made on the connection that calls it."""

from __future__ import annotations

from typing import Final

LOCKS: Final = 0x7AC0_0004  # of advisory locks, by class and slot
SLOTS: Final = 256  # a lock per key could fill the server's table of locks; who shares a slot waits a commit
REMEMBERED: Final = "24 hours"  # how long a publish that was absorbed is known by its id

_STATE_OF: Final = """
    SELECT tasks.state FROM tasks WHERE tasks.id = {id}
    UNION ALL
    SELECT h.state FROM task_history AS h WHERE h.id = {id}
"""

ACCEPT_KEYED_FUNCTION: Final = f"""
CREATE OR REPLACE FUNCTION pg_temp.tacoq_accept_keyed(
    ids uuid[], kinds text[], queues text[], priorities smallint[], fairness_keys text[], payloads bytea[],
    fingerprints bytea[], delays float8[], run_ats timestamptz[], expiry_delays float8[], expires_ats timestamptz[],
    attempt_limits int[], timeouts float8[], retries_of uuid[], traceparents text[], tracestates text[],
    queues_given boolean[], unique_keys bytea[], conflicts text[], idempotency_keys text[], windows float8[],
    digests bytea[], lines int[], lane_queues text[], lane_kinds text[], lane_keys text[], lane_priorities smallint[],
    lead_epoch bigint, lead_holder uuid, lead_limits bigint, rated_queues text[], rated_kinds text[], rates float8[],
    key_rates float8[]
) RETURNS TABLE (id uuid, state text, duplicate boolean, created_at timestamptz, expires_at timestamptz,
                 differs boolean, replaced boolean, left_queue text, left_key text, left_priority smallint)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    asked record;
    known uuid[];
    before record;
    fresh uuid[] := '{{}}';
    free int[];
    task uuid;  -- that answers what is asked
    now_in text;  -- the state of that one
    waits boolean;
    by_key boolean;
    clashing text[] := '{{}}';
    rejected text[] := '{{}}';
BEGIN
    -- All keys, in one order: nobody else looks at them until this commits.
    PERFORM pg_advisory_xact_lock({LOCKS}, slot) FROM (
        SELECT DISTINCT hashtext(key) & {SLOTS - 1} AS slot
        FROM (
            SELECT encode(u.key, 'hex') FROM unnest(unique_keys) AS u (key)
            UNION ALL
            SELECT u.kind || ' ' || u.key FROM unnest(kinds, idempotency_keys) AS u (kind, key)
        ) AS keys (key)
        WHERE key IS NOT NULL
        ORDER BY slot OFFSET 0
    ) AS slots;
    -- What may be replaced, in the order of ids, as everybody locks rows: no claim takes it from now on.
    PERFORM 1 FROM (
        SELECT t.id FROM unnest(unique_keys, conflicts) AS u (key, conflict)
        CROSS JOIN LATERAL (SELECT tasks.id FROM tasks WHERE tasks.unique_key = u.key OFFSET 0) AS t
        WHERE u.conflict = 'replace'
        ORDER BY t.id OFFSET 0
    ) AS holder
    CROSS JOIN LATERAL (SELECT 1 FROM tasks WHERE tasks.id = holder.id FOR UPDATE OFFSET 0) AS locked;
    -- Which of them were sent before? None becomes so from now on: its keys are locked, too.
    SELECT array_agg(u.id) INTO known
    FROM unnest(ids) AS u (id)
    CROSS JOIN LATERAL (
        SELECT 1 FROM tasks WHERE tasks.id = u.id
        UNION ALL
        SELECT 1 FROM task_history AS h WHERE h.id = u.id
        UNION ALL
        SELECT 1 FROM absorbed AS a WHERE a.id = u.id
        OFFSET 0
    ) AS t;

    IF lead_epoch IS NOT NULL THEN
        free := pg_temp.tacoq_free_lanes(
            lane_queues, lane_kinds, lane_keys, lane_priorities, lead_epoch, lead_holder, lead_limits);
    END IF;

    FOR asked IN
        SELECT u.*, coalesce(u.run_at, now() + make_interval(secs => u.delay)) AS due,  -- NULL: at once
            coalesce(u.expires_at, now() + make_interval(secs => u.expires_in)) AS deadline
        FROM unnest(ids, kinds, queues, priorities, fairness_keys, payloads, fingerprints, delays, run_ats,
                    expiry_delays, expires_ats, attempt_limits, timeouts, retries_of, traceparents, tracestates,
                    queues_given, unique_keys, conflicts, idempotency_keys, windows, digests, lines)
            AS u (id, kind, queue, priority, fairness_key, payload, fingerprint, delay, run_at, expires_in, expires_at,
                  max_attempts, timeout, retry_of, traceparent, tracestate, queue_given, unique_key, conflict,
                  idempotency_key, idempotency_window, digest, line)
    LOOP
        created_at := now();
        expires_at := asked.deadline;
        task := NULL;
        by_key := false;
        replaced := false;
        differs := false;

        -- What was sent before has the answer that it had, whoever has its keys now.
        IF asked.id = ANY (known) THEN
            SELECT t.id, t.state, t.fingerprint INTO before
            FROM (
                SELECT tasks.id, tasks.state, tasks.fingerprint FROM tasks WHERE tasks.id = asked.id
                UNION ALL
                SELECT h.id, h.state, h.fingerprint FROM task_history AS h WHERE h.id = asked.id
                UNION ALL
                SELECT a.task_id, t.state, a.fingerprint FROM absorbed AS a
                CROSS JOIN LATERAL ({_STATE_OF.format(id="a.task_id")}) AS t
                WHERE a.id = asked.id
            ) AS t;
            IF FOUND AND before.fingerprint <> asked.fingerprint THEN
                clashing := array_append(clashing, asked.id::text);
                CONTINUE;
            ELSIF FOUND THEN
                id := before.id;
                state := before.state;
                duplicate := true;
                RETURN NEXT;
                CONTINUE;
            END IF;
        END IF;

        -- Its idempotency key: the first task that had it, while the window lasts and the task is kept.
        IF asked.idempotency_key IS NOT NULL THEN
            SELECT i.task_id, i.payload_digest <> asked.digest INTO task, differs
            FROM idempotency AS i
            WHERE i.kind = asked.kind AND i.key = asked.idempotency_key AND i.expires_at > now();
            IF FOUND THEN
                SELECT t.state INTO now_in FROM ({_STATE_OF.format(id="task")}) AS t;
                by_key := FOUND;
            END IF;
            IF NOT by_key THEN
                task := NULL;
                differs := false;
            END IF;
        END IF;

        -- Its unique key: the live task that has it.
        IF NOT by_key AND asked.unique_key IS NOT NULL THEN
            SELECT t.id, t.state, t.state IN ('scheduled', 'pending') AND t.queued_at IS NULL,
                CASE WHEN t.state = 'pending' THEN t.queue END, t.fairness_key, t.priority
            INTO task, now_in, waits, left_queue, left_key, left_priority
            FROM tasks AS t WHERE t.unique_key = asked.unique_key;
            IF FOUND AND asked.conflict = 'reject' THEN
                rejected := array_append(rejected, asked.id || '=' || task);
                CONTINUE;
            ELSIF waits AND asked.conflict = 'replace' THEN
                -- The id stays, and with it the fingerprint, which tells a resend of what this id was published with.
                UPDATE tasks SET queue = asked.queue, queue_given = asked.queue_given, priority = asked.priority,
                    fairness_key = asked.fairness_key, payload = asked.payload,
                    run_at = coalesce(asked.due, least(tasks.run_at, now())),
                    state = CASE WHEN asked.due > now() THEN 'scheduled' ELSE 'pending' END,
                    expires_at = asked.deadline, max_attempts = asked.max_attempts, timeout = asked.timeout,
                    traceparent = asked.traceparent, tracestate = asked.tracestate, attempt = 0, crashes = 0
                WHERE tasks.id = task
                RETURNING tasks.state INTO now_in;
                replaced := true;
            END IF;
        END IF;

        IF task IS NULL THEN
            now_in := CASE
                WHEN asked.due > now() THEN 'scheduled'
                WHEN asked.line = ANY (free) THEN 'queued'
                ELSE 'pending'
            END;
            INSERT INTO tasks (id, kind, queue, priority, fairness_key, payload, fingerprint, run_at, expires_at,
                               max_attempts, timeout, retry_of, unique_key, traceparent, tracestate, queue_given,
                               state, release, queued_at)
            VALUES (asked.id, asked.kind, asked.queue, asked.priority, asked.fairness_key, asked.payload,
                    asked.fingerprint, coalesce(asked.due, now()), asked.deadline, asked.max_attempts, asked.timeout,
                    asked.retry_of, asked.unique_key, asked.traceparent, asked.tracestate, asked.queue_given,
                    now_in, (now_in = 'queued')::int, CASE WHEN now_in = 'queued' THEN now() END)
            ON CONFLICT DO NOTHING
            RETURNING tasks.id INTO task;
            IF NOT FOUND THEN
                RAISE EXCEPTION 'task % is being accepted elsewhere', asked.id USING ERRCODE = 'serialization_failure';
            END IF;
            fresh := array_append(fresh, task);
        ELSE
            INSERT INTO absorbed (id, task_id, fingerprint, expires_at)
            VALUES (asked.id, task, asked.fingerprint, now() + interval '{REMEMBERED}')
            ON CONFLICT (id) DO UPDATE SET task_id = excluded.task_id, fingerprint = excluded.fingerprint,
                expires_at = excluded.expires_at;
        END IF;
        IF asked.idempotency_key IS NOT NULL AND NOT by_key THEN
            INSERT INTO idempotency (kind, key, task_id, payload_digest, expires_at)
            VALUES (asked.kind, asked.idempotency_key, task, asked.digest,
                    now() + make_interval(secs => asked.idempotency_window))
            ON CONFLICT (kind, key) DO UPDATE SET task_id = excluded.task_id,
                payload_digest = excluded.payload_digest, expires_at = excluded.expires_at;
        END IF;
        id := task;
        state := now_in;
        duplicate := task <> asked.id;
        RETURN NEXT;
    END LOOP;

    -- Accepted elsewhere since `known`, and ended already: once more, then.
    IF EXISTS (
        SELECT FROM unnest(fresh) AS u (id)
        CROSS JOIN LATERAL (SELECT 1 FROM task_history AS h WHERE h.id = u.id OFFSET 0) AS h
    ) THEN
        RAISE EXCEPTION 'tasks were accepted elsewhere' USING ERRCODE = 'serialization_failure';
    END IF;
    IF free IS NOT NULL AND cardinality(rated_queues) > 0 THEN
        PERFORM pg_temp.tacoq_draw(fresh, rated_queues, rated_kinds, rates, key_rates);
    END IF;
    IF clashing <> '{{}}' THEN
        RAISE EXCEPTION 'task ids are known with other content'
            USING ERRCODE = 'TQ409', DETAIL = array_to_string(clashing, ',');
    ELSIF rejected <> '{{}}' THEN
        RAISE EXCEPTION 'unique keys have a live task'
            USING ERRCODE = 'TQ410', DETAIL = array_to_string(rejected, ',');
    END IF;
END
$$
"""
