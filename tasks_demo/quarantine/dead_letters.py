"""The dead letters of the reliable transport, listed and decided like parked messages.

They are in the broker until somebody decides. The decision is a row of the parked messages, with a copy of the message.
``requeue`` does **not** guarantee that row: a crash between Redis and the commit leaves none. Nor does a discard whose reply is
lost say whether the dead letter is still there: list again.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cached_property
from typing import Any

import redis
from celery import current_app
from django.db import router, transaction
from django.utils import timezone
from kombu import serialization
from kombu.exceptions import OperationalError

from tasks_demo.core import clock
from tasks_demo.core.exceptions import EnvironmentNotReady, InvalidSetting, RequeueFailed
from tasks_demo.core.lifecycle import described
from tasks_demo.core.masking import masked, masked_call, masked_text
from tasks_demo.records.fields import fit_column
from tasks_demo.records.models import Decision, Parked
from tasks_demo.records.serialised import packed
from tasks_demo.transport import (
    DeadLetter,
    count_dead_letters,
    discard_dead_letter,
    get_dead_letter,
    list_dead_letters,
    requeue_dead_letter,
)
from tasks_demo.transport.messages import deliveries, read

#: Timeout of each step, seconds; and the dead letters that are read at a time.
SECONDS, AT_ONCE = 5.0, 100


class DeadLetters(AbstractContextManager["DeadLetters"]):
    """The dead letters of the project's broker; none, if it is not Redis. Connects when first asked, and closes at the end of
    the ``with`` block. Each method raises EnvironmentNotReady if Redis does not answer. ``seconds``: timeout of each step.
    """

    def __init__(self, seconds: float = SECONDS) -> None:
        self._seconds = seconds
        self._opened = ExitStack()

    def __exit__(self, *raised: object) -> None:
        self._opened.close()

    @cached_property
    def _broker(self) -> tuple[Any, str] | None:
        """A client, and the prefix of the broker's keys."""
        options = {"socket_timeout": self._seconds, "socket_connect_timeout": self._seconds}
        broker: Any = self._opened.enter_context(current_app.connection_for_read(transport_options=options))
        if broker.transport.driver_type != "redis":
            return None
        broker.ensure_connection(max_retries=1, interval_start=0)
        channel = broker.default_channel
        return redis.Redis(connection_pool=channel.pool), str(channel.global_keyprefix)

    def count(self) -> int:
        """Return how many there are."""
        with _answering():
            return count_dead_letters(*self._broker) if self._broker else 0

    def page(self, offset: int = 0, limit: int = AT_ONCE) -> list[DeadLetter]:
        """Return some of them, the newest first."""
        with _answering():
            return list_dead_letters(*self._broker, offset=offset, limit=limit) if self._broker else []

    def __iter__(self) -> Iterator[DeadLetter]:
        """Yield all, the newest first. If a dead letter is decided during the iteration, another may be skipped."""
        offset = 0
        while found := self.page(offset):
            yield from found
            offset += AT_ONCE

    def get(self, token: str) -> DeadLetter | None:
        """Return the one with this token."""
        with _answering():
            return get_dead_letter(self._broker[0], token, self._broker[1]) if self._broker else None

    def find(self, text: str) -> list[DeadLetter]:
        """Return the one whose token this is; or else all whose task ID equals or begins with it."""
        if exact := self.get(text):
            return [exact]
        found = [letter for letter in self if letter.task_id.startswith(text)]
        return [letter for letter in found if letter.task_id == text] or found

    def requeue(self, letter: DeadLetter, *, by: str, why: str) -> bool:
        """Put it on its queue, last in line, with its deliveries counted from 0. Returns False if somebody has decided.

        Raises RequeueFailed if it is not a message: a worker would bring it back at once.
        """
        if not letter.is_message:
            raise RequeueFailed(
                f"{letter.token} was not requeued: no worker can read it ({letter.reason}). It stays a dead letter. Discard it."
            )
        with transaction.atomic(using=_alias(letter)), _answering():
            _decided(letter, Parked.State.REQUEUED, "requeue", by, why)
            done = self._broker is not None and requeue_dead_letter(self._broker[0], letter.token, self._broker[1])
            if not done:
                transaction.set_rollback(True, using=_alias(letter))
        return done

    def discard(self, letter: DeadLetter, *, by: str, why: str) -> bool:
        """Delete it from the broker; its row keeps the message. Returns False if somebody has decided."""
        # The row is committed first: it is the only copy once Redis has deleted its own.
        with transaction.atomic(using=_alias(letter)):
            row = _decided(letter, Parked.State.DISCARDED, "discard", by, why)
        done = refused = False
        try:
            with _answering():
                done = self._broker is not None and discard_dead_letter(self._broker[0], letter.token, self._broker[1])
                refused = not done
        except EnvironmentNotReady as error:
            refused = isinstance(error.__cause__, redis.ResponseError)
            raise
        finally:
            if refused:
                with transaction.atomic(using=_alias(letter)):
                    row.decisions.all().delete()
                    row.delete()
        return done


def shown_id(letter: DeadLetter) -> str:
    """Return the name to show: the task ID, or the token if the task ID is missing or not printable."""
    return letter.task_id if letter.task_id and letter.task_id.isprintable() else letter.token


def death_count(letter: DeadLetter) -> int:
    """Return how often its worker died; 0 if it is not a message."""
    return deliveries(read(letter.raw)) + 1 if letter.is_message else 0


def parts(letter: DeadLetter) -> dict[str, str]:
    """Return what it says, as Python literals, without the values that TASKS_DEMO_MASKED names."""
    try:
        args, kwargs = _call(letter)
        args, kwargs = masked_call(current_app.tasks.get(letter.task), args, kwargs)
    except Exception:  # noqa: BLE001  (whatever was put on a queue is shown)
        return {"text": ascii(masked_text(letter.raw.decode("utf-8", "backslashreplace")))}
    return {"args": repr(args), "kwargs": repr(masked(kwargs))}


@contextmanager
def _answering() -> Iterator[None]:
    try:
        yield
    except (redis.RedisError, OperationalError, InvalidSetting, OSError) as error:
        raise EnvironmentNotReady(
            f"The broker's Redis did not list or decide its dead letters ({described(error.__cause__ or error)}). They stay "
            "there until somebody decides. Start it, or make it writable, and list them again."
        ) from error


def _call(letter: DeadLetter) -> tuple[list[Any], dict[str, Any]]:
    """Return the arguments. Raises anything."""
    message: Any = read(letter.raw)
    body = message["body"]
    if message["properties"].get("body_encoding") == "base64":
        body = base64.b64decode(body)
    accept = serialization.prepare_accept_content(current_app.conf.accept_content)
    args, kwargs, _ = serialization.loads(body, message["content-type"], message["content-encoding"], accept=accept)
    return list(args), dict(kwargs)


def _alias(letter: DeadLetter) -> str:
    """Return the database of the parked messages of its task."""
    return str(getattr(current_app.tasks.get(letter.task), "using", None) or router.db_for_write(Parked))


def _decided(letter: DeadLetter, state: Parked.State, decision: str, by: str, why: str) -> Parked:
    """Store the message and who decided about it, in the caller's transaction."""
    try:
        args, kwargs = _call(letter)
        copy = current_app.signature(letter.task, args, kwargs, task_id=letter.task_id, queue=letter.queue)
        data, kind, encoding = packed(dict(copy), current_app.conf.task_serializer)
    except Exception:  # noqa: BLE001  (whatever was put on a queue is kept)
        data, kind, encoding = ascii(letter.raw), "text/plain", "utf-8"
    row = Parked.objects.using(_alias(letter)).create(
        task_id=fit_column(letter.task_id or letter.token),
        operation=fit_column(letter.task_id or letter.token),
        task=fit_column(letter.task),
        message=data,
        content_type=kind,
        content_encoding=encoding,
        attempts=death_count(letter),
        reason=f"Dead letter of the queue {letter.queue!a}: {ascii(letter.reason)[1:-1]}.",
        parked_at=clock.from_epoch(letter.at),
        state=state,
    )
    Decision.objects.using(_alias(letter)).create(
        parked_id=row.pk, decision=decision, by=by[:255], why=why, at=timezone.now()
    )
    return row
