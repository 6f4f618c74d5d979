-- The latest task IDs, grouped. Parameter: how many of them are looked at.
-- The inner SELECT walks the index on first_at and stops; what it costs does not depend on the size of the table.
SELECT task, pattern, run, verdict, broken, COUNT(*), MAX(first_at)
FROM (
    SELECT task, pattern, run, verdict, broken, first_at
    FROM tasks_demo_tally
    ORDER BY first_at DESC, task_id
    LIMIT %s
) AS newest
GROUP BY task, pattern, run, verdict, broken
