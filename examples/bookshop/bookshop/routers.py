"""The ledger lives in the database ``ops``, everything else in ``default``."""

LEDGER = "tasks_demo"


class LedgerInOps:
    """An ordinary database router, as a project with two databases has one."""

    def db_for_read(self, model, **hints):
        return "ops" if model._meta.app_label == LEDGER else None

    def db_for_write(self, model, **hints):
        return "ops" if model._meta.app_label == LEDGER else None

    def allow_migrate(self, db, app_label, **hints):
        return (db == "ops") == (app_label == LEDGER)
