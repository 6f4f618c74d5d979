"""Django looks for an app's models here. The tables of the ledger are described in ``tasks_demo.ledger``."""

from tasks_demo.ledger.models import BookCursor, BooksRead, Event, Tally
from tasks_demo.ledger.rollup_models import Backlog, Rollup, RollupState
from tasks_demo.ledger.worker_process import WorkerProcess

__all__ = ["Backlog", "BookCursor", "BooksRead", "Event", "Rollup", "RollupState", "Tally", "WorkerProcess"]
