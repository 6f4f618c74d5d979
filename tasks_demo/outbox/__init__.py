"""The outbox: jobs that are committed together with the business data and published by ``manage.py relay``."""

from tasks_demo.outbox.enqueue import Outbox, enqueue

__all__ = ["Outbox", "enqueue"]
