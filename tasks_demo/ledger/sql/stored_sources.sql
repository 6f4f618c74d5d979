-- Find which of these sources are stored. The caller repeats the placeholder for each source.
SELECT source FROM tasks_demo_event WHERE source IN (%s)
