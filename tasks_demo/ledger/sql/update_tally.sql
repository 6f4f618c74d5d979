-- Add one batch's counts to the tally of one task ID; the first batch creates it.
-- Parameters: task_id, operation, pattern, run, books, task, the thirteen counts in the order of the columns, state,
-- operation again (to count effects that were stored before this task ID's first event), first_at, last_at.
INSERT INTO tasks_demo_tally AS t (
    task_id, operation, pattern, run, books, task,
    publications, deliveries, executions, suppressed, deferred, fenced, quarantined, failed, returned, abandoned, faults, ended, settled,
    state, effects, first_at, last_at
) VALUES (
    %s, %s, %s, %s, %s, %s,
    %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s,
    %s,
    (SELECT COUNT(*) FROM tasks_demo_event WHERE kind = 'effect' AND operation = %s), %s, %s
)
ON CONFLICT (task_id) DO UPDATE SET
    -- operation, pattern, books, run and task are not set again: SQLite would rewrite the indexes that hold them at each update.
    -- correct_task.sql corrects them where the first batch did not know the task.
    publications = t.publications + excluded.publications,
    deliveries = t.deliveries + excluded.deliveries,
    executions = t.executions + excluded.executions,
    suppressed = t.suppressed + excluded.suppressed,
    deferred = t.deferred + excluded.deferred,
    fenced = t.fenced + excluded.fenced,
    quarantined = t.quarantined + excluded.quarantined,
    failed = t.failed + excluded.failed,
    returned = t.returned + excluded.returned,
    abandoned = t.abandoned + excluded.abandoned,
    faults = t.faults + excluded.faults,
    ended = t.ended + excluded.ended,
    settled = t.settled + excluded.settled,
    -- Keep the latest state, even if batches are committed out of order.
    state = CASE WHEN excluded.state > t.state THEN excluded.state ELSE t.state END,
    last_at = CASE WHEN excluded.last_at > t.last_at THEN excluded.last_at ELSE t.last_at END
