"""The Django app with the bank's tables."""

from __future__ import annotations

from django.apps import AppConfig

#: The label of the app, and the alias of its database.
BANK = "bank"


class BankConfig(AppConfig):
    name = "tasks_demo.demo.bank"
    label = BANK
    default_auto_field = "django.db.models.BigAutoField"
    #: Aliases that ``manage.py doctor`` leaves out: only the bank's process opens them.
    private_databases = (BANK,)
