"""Django's dummy backend under another name: no MySQL driver is among our requirements."""

from django.db.backends.dummy.base import DatabaseWrapper as Dummy


class DatabaseWrapper(Dummy):
    vendor = "mysql"
    display_name = "MySQL"
