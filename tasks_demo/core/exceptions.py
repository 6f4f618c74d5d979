"""All errors of this package, in one tree, grouped by when they are raised.

A message says what happened, what it means for the job and the data, and what to do. A class's docstring is also its default
message.
"""

from __future__ import annotations

from kombu.exceptions import EncodeError


class DeliveryError(Exception):
    """Base of all errors of this package."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or " ".join((type(self).__doc__ or "").split()))


# -- declaring and publishing ---------------------------------------------------------------------------------------------


class ContradictoryDeclaration(DeliveryError, TypeError):
    """An option of a task or of a call breaks the promise of its pattern, or would have no effect. Nothing was published."""


class InvalidSetting(DeliveryError, ValueError):
    """A TASKS_DEMO_* setting has an invalid value. Correct it."""


class InvalidOperationKey(DeliveryError, ValueError):
    """An operation key must be 1 to 200 characters of printable text that UTF-8 can encode. Nothing was published or run."""


class ArgumentsNotJson(DeliveryError, TypeError, EncodeError):
    """The arguments cannot be serialized. Nothing was published or run. Pass text, numbers, lists, dictionaries, ids."""


class PublishedInTransaction(DeliveryError, RuntimeError):
    """A job was published inside an open transaction. Nothing was published. Use delay_on_commit, or the outbox."""


class OutboxRefused(DeliveryError, ValueError):
    """The outbox cannot take this job; nothing was written to it. The message says what to change."""


class Unroutable(DeliveryError):
    """No queue is bound to the exchange and routing key of this message, and the broker would drop it. It was not published.
    Correct them, or declare the queue in task_queues: a worker that consumes it binds it."""


# -- before the body: it was not run --------------------------------------------------------------------------------------


class OperationMismatch(DeliveryError):
    """The operation key was already used by another task or with other arguments. Nothing was run. Use a new key for new work."""


class LeaseStoreUnavailable(DeliveryError):
    """Redis did not run a lease script, or its reply was lost. Before the body: it was not run, and the message is requeued."""


class RecordsUnavailable(DeliveryError):
    """The database of the patterns' records did not answer. The body was not run; the message is requeued."""


class UnsupportedDatabase(RecordsUnavailable):
    """The patterns keep records in SQLite and PostgreSQL only. The body was not run. Name another database with a router."""


class LedgerUnavailable(DeliveryError):
    """The ledger's database did not accept an event. A body whose start must be recorded does not run."""


class StartNotRecorded(DeliveryError):
    """An observer failed to record that the body is about to start. The body was not run; the message is requeued."""


class TransactionOpen(DeliveryError, RuntimeError):
    """An open transaction could roll back what the pattern must keep. Nothing was run. Call the task outside atomic()."""


class NothingToRequeue(DeliveryError, RuntimeError):
    """An eager call has no message to requeue. The error says why a worker would have requeued it."""


# -- in the body, and after it --------------------------------------------------------------------------------------------


class LeaseLost(DeliveryError):
    """The lease on the operation is lost: another worker may hold it. Stop: that worker's first write fences this one off."""


class Fenced(LeaseLost):
    """A later holder of the lease has already written, so this write was refused. Nothing was changed. Stop."""


class NoLease(DeliveryError, RuntimeError):
    """There is no lease here: lease() works only inside the body of a DedupLock task, in the thread that runs it. To call the
    body in a test, call the task itself, not its run()."""


class TransactionBroken(DeliveryError, RuntimeError):
    """The body ended or broke its pattern's transaction. Everything that it did not commit itself is rolled back."""


class OtherDatabaseUsed(DeliveryError, RuntimeError):
    """The body used a database outside its transaction. Everything is rolled back. Keep the effect in one database."""


class BodyNotRun(DeliveryError, TypeError):
    """The body returned a coroutine or generator, which Celery does not run: the work is not done. Use def, and return a list."""


class BodyStopped(DeliveryError, RuntimeError):
    """The body was ended by a BaseException such as asyncio.CancelledError. The job has failed."""


# -- the reliable transport --------------------------------------------------------------------------------------------------


class OwnerFenced(DeliveryError, ConnectionError):
    """This worker was declared dead by another one, and its messages were requeued. It must connect again as a new consumer;
    acknowledgements of what it held are refused."""


# -- commands and the admin -----------------------------------------------------------------------------------------------


class RequeueFailed(DeliveryError):
    """The parked message was not published. It is still parked and nothing was changed."""


class PublicationRefused(DeliveryError, ValueError):
    """The input does not describe a job that can be published. Nothing was published. The message says what to write."""


class OperationHeld(DeliveryError):
    """A worker may be running this operation now. Nothing was removed. Wait for it to end, or forget the operation anyway."""


class UnknownTask(DeliveryError, LookupError):
    """No task of this name with a pattern is registered in this process. Nothing was done. Check the name and the imports."""


class EnvironmentNotReady(DeliveryError):
    """Something that the command needs is missing or does not answer. The message says what to start or set."""
