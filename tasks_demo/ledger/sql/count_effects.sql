-- Set the number of effects on every tally of an operation to the count of its effect events. Parameters: operation, operation.
UPDATE tasks_demo_tally
SET effects = (SELECT COUNT(*) FROM tasks_demo_event WHERE kind = 'effect' AND operation = %s)
WHERE operation = %s
