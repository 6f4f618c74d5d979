"""A server that answers, and takes no writes: it is a replica (a failover), its memory or disk is full, it has too few replicas.

Redis 6.2 puts this into the text of a script's error, where redis-py does not see it. Without this, such an answer ends a Celery
worker, and what it was running is run again.
"""

from __future__ import annotations

import re
from typing import Any, Final

from redis import exceptions

_CODES: Final = re.compile(r"(?:^|[ -])(?:READONLY|OOM|MISCONF|NOREPLICAS|MASTERDOWN) ")
_KINDS: Final = (exceptions.ReadOnlyError, exceptions.OutOfMemoryError, exceptions.MasterDownError)


class WritesRefused(exceptions.ConnectionError, exceptions.ResponseError):
    """As with a lost connection, try again later, maybe at another server."""


def naming_refusals(connection_class: Any) -> Any:
    """Return a subclass of this redis-py connection that raises WritesRefused where the server takes no writes."""

    class Connection(connection_class):  # type: ignore[misc]
        #: redis-py reads it when a health check fails (a full disk refuses PING too), but a Unix socket has none.
        port: Any = None

        def read_response(self, *args: Any, **kwargs: Any) -> Any:
            try:
                return super().read_response(*args, **kwargs)
            except exceptions.ResponseError as error:
                if isinstance(error, _KINDS) or _CODES.search(str(error)):
                    raise WritesRefused(str(error)) from error
                raise

    return Connection
