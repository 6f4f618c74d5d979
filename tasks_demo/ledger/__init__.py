"""The ledger: an append-only history of task events, and counts per task ID.

It observes ``tasks_demo.core.lifecycle``. The observed code does not import the ledger.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tasks_demo.ledger.books import Books, Effect, ModelBooks
    from tasks_demo.ledger.recorded_effects import record_effect

__all__ = ["Books", "Effect", "ModelBooks", "record_effect"]


if not TYPE_CHECKING:  # else a misspelt name of this module would pass as Any

    def __getattr__(name: str) -> Any:
        # Imported lazily: Django imports this package before models can be imported.
        if name == "record_effect":
            from tasks_demo.ledger.recorded_effects import record_effect

            return record_effect
        if name in __all__:
            from tasks_demo.ledger import books

            return getattr(books, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def start_recording() -> None:
    """Start recording every point reached in this process. Does nothing if TASKS_DEMO_LEDGER is off."""
    from tasks_demo.core import lifecycle
    from tasks_demo.core.conf import settings

    if settings.LEDGER:
        from celery import signals

        from tasks_demo.ledger.recorder import recorder

        lifecycle.observe(recorder)
        signals.worker_init.connect(_main, dispatch_uid="tasks_demo.ledger")
        # A pool process ends without running atexit handlers.
        signals.worker_process_shutdown.connect(_close, dispatch_uid="tasks_demo.ledger")


def _main(**_: object) -> None:
    from tasks_demo.ledger.recorder import recorder

    recorder.is_main = True


def _close(**_: object) -> None:
    from tasks_demo.ledger.recorder import recorder

    recorder.close()
