"""The patterns: task base classes, each with a stated delivery promise. One file is one pattern."""

from tasks_demo import installed  # noqa: F401  (registers what it says)
from tasks_demo.delivery.acks_early import AcksEarly
from tasks_demo.delivery.acks_late import AcksLate
from tasks_demo.delivery.claim_first import ClaimFirst
from tasks_demo.delivery.dedup_lock import DedupLock, Lease, lease
from tasks_demo.delivery.inbox import Inbox
from tasks_demo.delivery.outbox import Outbox

__all__ = ["AcksEarly", "AcksLate", "ClaimFirst", "DedupLock", "Inbox", "Lease", "Outbox", "lease"]
