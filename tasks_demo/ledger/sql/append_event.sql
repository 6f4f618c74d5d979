-- Append one event. Parameters in the order of the columns.
-- No ON CONFLICT: the caller leaves out events whose source is stored already (stored_sources.sql), so a conflict is a bug and
-- must raise.
INSERT INTO tasks_demo_event (at, kind, task_id, operation, pattern, worker, pid, run, source, detail)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
