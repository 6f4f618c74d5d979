"""No table: a run is a folder. The model carries the permissions on experiments, and names them in the admin's log."""

from __future__ import annotations

from django.db import models


class Experiment(models.Model):
    """An experiment, as permissions and the log of the admin name it."""

    class Meta:
        managed = False
        app_label = "tasks_demo_lab"
        default_permissions = ("view",)
        permissions = [("run_experiment", "Can start and stop experiments")]
