"""The bank's tables are an application of their own."""

from __future__ import annotations

from django.apps import AppConfig

#: Both the label of the application and the alias of its database.
BANK = "bank"


class BankConfig(AppConfig):
    name = "tasks_demo.demo.bank"
    label = BANK
    default_auto_field = "django.db.models.BigAutoField"
    #: Aliases that ``manage.py doctor`` does not ask: no process of ours but the bank opens them.
    private_databases = (BANK,)
