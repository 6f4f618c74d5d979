"""Every error this project raises on purpose: one tree.

Each message says what happened, what that means for the data, and what to do. Where a class is raised
without arguments, its docstring is the message.
"""

from __future__ import annotations

from kombu.exceptions import EncodeError

__all__ = [
    "ArgumentsNotJson",
    "BodyNotRun",
    "BodyStopped",
    "ContradictoryDeclaration",
    "DeliveryError",
    "EnvironmentNotReady",
    "Fenced",
    "InvalidOperationKey",
    "InvalidSetting",
    "LeaseLost",
    "LedgerUnavailable",
    "LockStoreUnavailable",
    "NoLease",
    "NothingToRequeue",
    "OperationHeld",
    "OperationMismatch",
    "OtherDatabaseUsed",
    "OutboxRefused",
    "PublishedInTransaction",
    "RecordsUnavailable",
    "RequeueFailed",
    "StartNotRecorded",
    "TransactionBroken",
    "TransactionOpen",
    "UnknownTask",
    "UnsupportedDatabase",
]


class DeliveryError(Exception):
    """Something about the delivery of a task went wrong."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or " ".join((type(self).__doc__ or "").split()))


class ContradictoryDeclaration(DeliveryError, TypeError):
    """A task was declared with options that break the promise of its pattern."""


class InvalidSetting(DeliveryError, ValueError):
    """A TASKS_DEMO_* setting has a value that cannot work."""


class InvalidOperationKey(DeliveryError, ValueError):
    """An operation key must be 1 to 200 characters of printable text that UTF-8 can carry."""


class ArgumentsNotJson(DeliveryError, TypeError, EncodeError):
    """The serializer cannot carry the arguments. Nothing was published or run."""


class OperationMismatch(DeliveryError):
    """The operation key was used before by another task or with other arguments. Nothing was run. Use a new key for new work."""


class LockStoreUnavailable(DeliveryError):
    """Redis did not answer a lock script. The body was not run; the message goes back to the queue."""


class LeaseLost(DeliveryError):
    """The lease on the operation is gone: another worker may hold it. Stop; later writes are fenced."""


class NoLease(DeliveryError, RuntimeError):
    """There is no lease here: lease() works inside the body of a DedupLock task only, in the thread that runs it. To call the
    body in a test, call the task itself, not its run()."""


class Fenced(LeaseLost):
    """A later holder of the lease has written already: this write came too late and was refused. Nothing was changed."""


class LedgerUnavailable(DeliveryError):
    """The ledger's database did not take an event. A body that needs its start recorded does not run."""


class StartNotRecorded(DeliveryError):
    """An observer could not take down that the body is about to begin. The body was not run; the message is requeued."""


class RecordsUnavailable(DeliveryError):
    """The database of the patterns' own records did not answer. The body was not run; the message goes back."""


class UnsupportedDatabase(RecordsUnavailable):
    """The patterns keep records in SQLite and PostgreSQL only. The body was not run; it runs when the database is another one."""


class NothingToRequeue(DeliveryError, RuntimeError):
    """An eager call has no message that could be requeued; the error says why a worker would have requeued it."""


class TransactionOpen(DeliveryError, RuntimeError):
    """A transaction was open that could roll back what the pattern must keep. Nothing was run. Call outside atomic()."""


class TransactionBroken(DeliveryError, RuntimeError):
    """The body ended or spoilt the transaction of its pattern. What was not committed by hand is rolled back."""


class OtherDatabaseUsed(DeliveryError, RuntimeError):
    """The body used a database that its transaction is not on. All is rolled back. Keep the effect in one database."""


class OutboxRefused(DeliveryError, ValueError):
    """The outbox cannot take this job; nothing was written to it. The message says what to change."""


class RequeueFailed(DeliveryError):
    """The parked message was not published again. It is still parked and nothing was changed."""


class OperationHeld(DeliveryError):
    """Somebody may be doing this operation now. Nothing was removed. Wait for its end, or say that it is to be forgotten."""


class UnknownTask(DeliveryError, LookupError):
    """No task of this name with a pattern is registered in this process. Nothing was done."""


class EnvironmentNotReady(DeliveryError):
    """Something the command needs is missing or does not answer; the message says what to start or set."""


class BodyNotRun(DeliveryError, TypeError):
    """The body returned something that has still to be run, so its work is not done."""


class BodyStopped(DeliveryError, RuntimeError):
    """The body was ended by what is no Exception, such as asyncio.CancelledError. The job has failed."""


class PublishedInTransaction(DeliveryError, RuntimeError):
    """A job was published inside an open transaction. Nothing was published. Use delay_on_commit, or the outbox."""
