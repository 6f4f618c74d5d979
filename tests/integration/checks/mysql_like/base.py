"""Django's dummy backend under another name, because no MySQL driver is installed."""

from django.db.backends.dummy.base import DatabaseWrapper as Dummy


class DatabaseWrapper(Dummy):
    vendor = "mysql"
    display_name = "MySQL"
