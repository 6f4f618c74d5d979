"""Publishes a job by hand: to the broker, confirmed and with a timeout, or into the outbox if its task is an ``Outbox``.

Does **not** guarantee that the broker has no message if a publication fails: its confirmation may have been lost.
"""

from __future__ import annotations

from collections.abc import Sequence

from amqp.exceptions import ChannelError
from django.db import Error, router, transaction
from kombu.exceptions import KombuError, OperationalError
from redis.exceptions import RedisError

from tasks_demo.core.exceptions import DeliveryError, EnvironmentNotReady, PublicationRefused
from tasks_demo.core.lifecycle import described
from tasks_demo.outbox.enqueue import Outbox, enqueue
from tasks_demo.publishing.parsing import Job
from tasks_demo.quarantine.decisions import BROKER_SECONDS, confirming_producer
from tasks_demo.records.models import OutboxMessage


def send(job: Job, task_ids: Sequence[str]) -> list[str]:
    """Publish the job once under each of these task IDs. Returns the task IDs that were published.

    Raises EnvironmentNotReady if the broker or the outbox's database does not accept a message, and PublicationRefused if the job
    cannot be turned into one. The error names the task IDs that were already published.
    """
    done: list[str] = []
    try:
        if isinstance(job.task, Outbox):
            alias = router.db_for_write(OutboxMessage)
            with transaction.atomic(using=alias):  # all or none
                for task_id in task_ids:
                    enqueue(
                        job.task, job.args, job.kwargs, task_id=task_id, using=alias, independent=True, **job.options
                    )
            return list(task_ids)
        with confirming_producer() as producer:
            for task_id in task_ids:
                job.task.apply_async(
                    job.args, job.kwargs, task_id=task_id, producer=producer, retry=False, mandatory=True,
                    timeout=BROKER_SECONDS, confirm_timeout=BROKER_SECONDS, **job.options,
                )  # fmt: skip
                done.append(task_id)
    except DeliveryError as error:
        raise PublicationRefused(f"{str(error) or described(error)} {_so_far(done)}") from error
    except ChannelError as error:
        raise PublicationRefused(f"No queue takes the job ({described(error)}). {_so_far(done)}") from error
    except Error as error:
        raise EnvironmentNotReady(
            f"The outbox's database did not accept the job ({described(error)}). Nothing was published."
        ) from error
    except (OperationalError, RedisError, OSError, RuntimeError) as error:  # RuntimeError: the result backend gave up
        raise EnvironmentNotReady(
            f"The broker did not accept the job ({described(error.__cause__ or error)}). {_so_far(done)} Start the broker, or "
            "make it writable, and try again."
        ) from error
    except (KombuError, TypeError, ValueError, LookupError) as error:
        raise PublicationRefused(
            f"The job cannot be turned into a message ({described(error)}). {_so_far(done)}"
        ) from error
    return done


def _so_far(done: list[str]) -> str:
    return f"Published: {', '.join(done)}." if done else "Nothing was published."
