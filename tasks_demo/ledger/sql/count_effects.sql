-- Set, never add: the effects of every task ID of one operation, counted from the events. Parameters: operation, operation.
UPDATE tasks_demo_tally
SET effects = (SELECT COUNT(*) FROM tasks_demo_event WHERE kind = 'effect' AND operation = %s)
WHERE operation = %s
