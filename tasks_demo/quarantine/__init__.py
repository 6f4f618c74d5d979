"""The quarantine: requeue or discard messages that were parked because their worker died at each attempt."""

from tasks_demo.quarantine.decisions import discard, requeue

__all__ = ["discard", "requeue"]
