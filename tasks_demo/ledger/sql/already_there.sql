-- Is the event of this source committed?
SELECT 1 FROM tasks_demo_event WHERE source = %s
