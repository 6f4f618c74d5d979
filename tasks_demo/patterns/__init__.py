"""The patterns: task base classes, each with a stated delivery promise and a file of its own."""

from tasks_demo.core import installed  # noqa: F401  (warns if ``tasks_demo`` itself is not installed)
from tasks_demo.patterns.acks_early import AcksEarly
from tasks_demo.patterns.acks_late import AcksLate
from tasks_demo.patterns.claim_first import ClaimFirst
from tasks_demo.patterns.dedup_lock import DedupLock, Lease, lease
from tasks_demo.patterns.fencing import fenced
from tasks_demo.patterns.inbox import Inbox

__all__ = ["AcksEarly", "AcksLate", "ClaimFirst", "DedupLock", "Inbox", "Lease", "fenced", "lease"]
