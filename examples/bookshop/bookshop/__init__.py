"""A small bookshop that has put the delivery patterns and the ledger into its own Django project."""

from bookshop.celery import app as celery_app

__all__ = ["celery_app"]
