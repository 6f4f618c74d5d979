"""The supported versions of Celery and Django: `make matrix` tests them, the check W025 and the README name them."""

CELERY = ("5.5", "5.6", "5.7")
#: From 6.0 on, Django needs Python 3.12.
DJANGO = ("5.1", "5.2", "6.1")
