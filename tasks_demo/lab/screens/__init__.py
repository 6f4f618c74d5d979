"""The experiments in the dashboard: list, new, live page and result, two side by side.

Off unless ``TASKS_DEMO_LAB_ENABLED``. Nothing that a browser sends becomes a pid, a host, a path, a URL or a command.
"""
