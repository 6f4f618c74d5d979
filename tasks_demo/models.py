"""Django looks for an app's models here. The tables of the ledger are described in ``tasks_demo.ledger.models``."""

from tasks_demo.ledger.models import BookCursor, BooksRead, Event, Tally
from tasks_demo.ledger.worker_process import WorkerProcess

__all__ = ["BookCursor", "BooksRead", "Event", "Tally", "WorkerProcess"]
