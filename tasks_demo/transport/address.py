"""Broker addresses: what stands behind ``reliable+``.

reliable+redis://user:password@host:6379/0        reliable+rediss://…?ssl_cert_reqs=required&ssl_ca_certs=/path
reliable+socket:///path/to/redis.sock?virtual_host=0
reliable+sentinel://host1:26379/0;sentinel://host2:26379      with the transport option master_name
"""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import urlsplit

from kombu.utils.url import parse_url

from tasks_demo.core.exceptions import InvalidSetting

ALIAS: Final = "reliable"
_PREFIX: Final = f"{ALIAS}+"
SCHEMES: Final = ("redis", "rediss", "socket", "sentinel")


def scheme_of(connection: Any) -> str:
    """The scheme behind ``reliable+`` of a kombu connection; ``redis`` if it names only a host. Raises InvalidSetting."""
    hostname = connection.hostname or ""
    scheme = urlsplit(hostname).scheme if "://" in hostname else "redis"
    if scheme not in SCHEMES:
        known = ", ".join(_PREFIX + name for name in SCHEMES)
        raise InvalidSetting(f"The broker's address begins with {_PREFIX}{scheme}://. This transport knows {known}.")
    if scheme == "sentinel":
        # kombu fails over from one address to the next, and the others have the scheme of the stock transport. The channel asks
        # every sentinel for the primary, so there is nothing to fail over to.
        connection.alt = [address.removeprefix(_PREFIX) for address in connection.alt or [hostname]]
        connection.cycle = None
        database, *others = map(sentinel_database, connection.alt)
        if any(other not in ("", database or "0") for other in others):
            raise InvalidSetting(
                "The broker's setting has sentinels with different databases. Stock kombu uses that of the first address, and 0 "
                f"if there is none: write {_PREFIX}sentinel://host/DATABASE;sentinel://… Nothing was connected."
            )
    elif len(connection.alt) > 1:
        raise InvalidSetting(
            "The broker's setting has several addresses. A claim is known to one server only, so that this transport cannot "
            f"fail over between independent servers. Write one address, or {_PREFIX}sentinel://."
        )
    return scheme


def sentinel_database(hostname: str) -> str:
    """The database behind ``sentinel://``, which is that of the first address; an empty text if it names none."""
    return urlsplit(hostname).path.strip("/")


def tcp_parameters(hostname: str) -> dict[str, Any]:
    """redis-py's parameters for ``redis://`` and ``rediss://``, without user and password. Raises InvalidSetting."""
    parsed = parse_url(hostname)
    tls = parsed.pop("ssl", {})
    unknown = parsed.keys() - {"transport", "hostname", "port", "userid", "password", "virtual_host"}
    unknown.discard("credential_provider")
    if unknown:
        raise InvalidSetting(
            f"The query of the broker's address has {', '.join(sorted(unknown))}. It may have ssl_…; the rest belongs into "
            "broker_transport_options."
        )
    return {
        "host": parsed["hostname"] or "127.0.0.1",
        "port": parsed["port"] or 6379,
        "vhost": parsed["virtual_host"],
        **tls,
    }
