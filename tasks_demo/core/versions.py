"""The versions of Celery and Django that `make matrix` runs the tests on: what the check W025, the README and the matrix name."""

CELERY = ("5.5", "5.6", "5.7")
DJANGO = ("5.1", "5.2")
