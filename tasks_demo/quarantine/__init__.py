"""The quarantine: messages that were parked because their worker died each time, and what is decided about them."""

from tasks_demo.quarantine.decisions import discard, requeue

__all__ = ["discard", "requeue"]
