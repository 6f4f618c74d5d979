-- Append one event. Parameters in the order of the columns.
-- A source that is already there means that this very event was committed before: the caller finds out with
-- already_there.sql and appends nothing, so this statement has no ON CONFLICT: a surprise must be loud.
INSERT INTO tasks_demo_event (at, kind, task_id, operation, pattern, worker, pid, run, source, detail)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
