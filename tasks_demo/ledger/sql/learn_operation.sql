-- Correct the operation of a task ID whose publisher did not know the task, and took the ID for it. Hardly ever changes a row.
-- Parameters: operation, operation, task_id.
UPDATE tasks_demo_tally
SET operation = %s, effects = (SELECT COUNT(*) FROM tasks_demo_event WHERE kind = 'effect' AND operation = %s)
WHERE task_id = %s AND operation = task_id
