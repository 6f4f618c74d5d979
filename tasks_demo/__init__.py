"""Delivery semantics for Celery tasks in Django. What is public, and what stays: docs/reference/api.md."""

__version__ = "0.1.0"
