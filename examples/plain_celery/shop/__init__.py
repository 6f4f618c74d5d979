"""A shop on Celery alone: no Django, no pattern, no ledger."""
