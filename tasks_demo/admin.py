"""Django looks for an app's admin here. The screens are in ``tasks_demo.dashboard``."""

from django.apps import apps

from tasks_demo.dashboard import publish, task_ids, workers  # noqa: F401  (they register them)

if apps.is_installed("tasks_demo.records"):
    from tasks_demo.dashboard import failed, leases, operations, outbox, parked  # noqa: F401  (register their tables)
