-- Which of these sources are committed? With as many placeholders as there are sources.
SELECT source FROM tasks_demo_event WHERE source IN (%s)
