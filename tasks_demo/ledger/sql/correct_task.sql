-- Correct the tally of a task ID whose publisher knew only the task's name, and stored the task ID as the operation and no pattern
-- or books. Changes nothing otherwise. Parameters: operation, pattern, books, operation, task_id, operation, pattern, books.
UPDATE tasks_demo_tally
SET operation = CASE WHEN operation = task_id THEN %s ELSE operation END,
    pattern = CASE WHEN pattern = '' THEN %s ELSE pattern END,
    books = CASE WHEN books = '' THEN %s ELSE books END,
    effects = (
        SELECT COUNT(*) FROM tasks_demo_event AS e
        WHERE e.kind = 'effect'
        AND e.operation = CASE WHEN tasks_demo_tally.operation = task_id THEN %s ELSE tasks_demo_tally.operation END
    )
WHERE task_id = %s
AND (operation = task_id AND operation <> %s OR pattern = '' AND %s <> '' OR books = '' AND %s <> '')
