"""Results of operations as JSON text, stored for duplicates."""

from __future__ import annotations

import logging
from typing import Any

from kombu.utils import json

from tasks_demo.core.conf import settings
from tasks_demo.core.exceptions import InvalidSetting
from tasks_demo.core.lifecycle import described, job_fields

logger = logging.getLogger(__name__)


def as_text(task: Any, result: Any) -> str | None:
    """The result as JSON; None, and a warning, if it is not JSON or larger than TASKS_DEMO_RESULT_MAX_BYTES.

    Never raises: the work is done, and its completed marker must be stored.
    """
    try:
        text: str = json.dumps(result)
        size, most = len(text.encode("utf-8", "surrogatepass")), settings.RESULT_MAX_BYTES
        if size <= most:
            return text
        why = f"has {size} bytes of JSON, more than TASKS_DEMO_RESULT_MAX_BYTES ({most})"
    except Exception as error:  # noqa: BLE001  (a result has methods of the user's)
        why = (
            f"could not be measured: {error}"
            if isinstance(error, InvalidSetting)
            else f"is not JSON ({described(error)})"
        )
    logger.warning(
        "%s[%s]: the result, a %s, is not kept with its operation: it %s. The operation is completed; a duplicate of it will "
        "get None.", task.name, task.request.id, type(result).__name__, why, extra=job_fields(task_id=task.request.id),
    )  # fmt: skip
    return None


def from_text(text: str | None) -> Any:
    """The stored result; None if there is none or, with a warning, if it cannot be read. Never raises."""
    try:
        return None if text is None else json.loads(text)
    except Exception as error:  # noqa: BLE001  (the work is done, whatever became of its result)
        logger.warning(
            "The stored result of a completed operation cannot be read; its duplicate gets None: %r",
            error,
            extra=job_fields(),
        )
        return None
