"""The bank's client: the only module of the bank that others may import.

It never retries a debit: after a lost response it is unknown whether the debit was made, so retrying is the caller's decision,
and safe only with an idempotency key.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import urllib3
from urllib3.exceptions import ConnectTimeoutError, HTTPError, LocationValueError, NewConnectionError

T = TypeVar("T")

_LONGEST_KEY = 255
_PAGE = 1000
#: Printable ASCII, as header fields can carry it; "%" is left out so that the encoding stays reversible.
_PLAIN = "".join(map(chr, range(0x21, 0x7F))).replace("%", "")


class BankError(Exception):
    """A request to the bank failed."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or " ".join((type(self).__doc__ or "").split()))


class BankUnavailable(BankError):
    """The bank did not answer. It is unknown whether a debit was made, unless ``certain_not_charged`` is set."""

    def __init__(self, message: str | None = None, certain_not_charged: bool = False) -> None:
        super().__init__(message)
        # Both must be in args: Celery stores an error as its class and args, and rebuilds it where it is read.
        self.args = (*self.args, certain_not_charged)

    @property
    def certain_not_charged(self) -> bool:
        """Whether this request certainly charged nothing: it never reached the bank, or the bank said so.

        Does **not** guarantee that an earlier request for the same debit charged nothing.
        """
        return bool(self.args[1])

    def __str__(self) -> str:
        return str(self.args[0])


class BankRefused(BankError):
    """The bank refused the request: nothing was charged. Repeating it will not help."""


class BankMismatch(BankRefused):
    """The idempotency key was used with another debit. Nothing was charged now. Use a new key for a new debit."""


class BankFenced(BankError):
    """The fencing token is stale: another worker took over the operation. Nothing was charged now. Do not repeat it."""


class BankConflict(BankError):
    """A request with this idempotency key is still being processed. Repeat it later, with the same key."""


#: What other statuses below 500 mean is BankRefused.
_MEANINGS: dict[int, type[BankError]] = {409: BankConflict, 412: BankFenced, 422: BankMismatch}


@dataclass(frozen=True, slots=True)
class Debit:
    """A debit that was made. ``amount`` is in cents, ``created_at`` in seconds since the epoch."""

    id: int
    account: str
    amount: int
    reference: str
    source: str
    created_at: float


@dataclass(frozen=True, slots=True)
class DebitReceipt(Debit):
    """The response to a debit; ``replayed`` if an earlier request with the same key made it."""

    replayed: bool


class BankClient:
    """Talks to the bank at ``base_url`` over kept-alive connections. Safe across threads and across fork.

    ``timeout_seconds`` bounds connecting and each wait for bytes; a response that arrives in pieces can take longer.
    Raises ValueError for an address that is not ``http://`` or ``https://``.
    """

    def __init__(self, base_url: str, timeout_seconds: float = 10.0) -> None:
        try:
            url = urllib3.util.parse_url(base_url)
        except LocationValueError as error:
            raise ValueError(f"The bank's address {base_url!r} is not a URL.") from error
        if url.scheme not in {"http", "https"} or not url.host:
            raise ValueError(f"The bank's address {base_url!r} must start with http:// or https://.")
        self.base_url = base_url.rstrip("/")
        self._path = (url.path or "").rstrip("/")
        self._timeout = urllib3.Timeout(total=timeout_seconds)
        self._open_pool()

    def debit(
        self,
        account: str,
        amount: int,
        reference: str,
        *,
        idempotency_key: str | None = None,
        fence: int | None = None,
        source: str = "",
    ) -> DebitReceipt:
        """Charge ``account`` with ``amount`` cents for ``reference``.

        With ``idempotency_key``, at most once for that key, even if called again. With ``fence``, not after the same reference
        was charged under a higher one; a fence alone does not deduplicate. ``source`` is only stored.

        Raises BankRefused, BankMismatch, BankFenced, BankConflict, or BankUnavailable. After BankUnavailable without
        ``certain_not_charged`` it is unknown whether the debit was made: repeat it with the same key, or ask
        ``debits(reference)``.
        """
        headers = {"Content-Type": "application/json"}
        try:
            if source:
                headers["Task-Id"] = quote(source, safe=_PLAIN)
            if idempotency_key is not None:
                headers["Idempotency-Key"] = _as_header(idempotency_key)
            if fence is not None:
                headers["Fencing-Token"] = str(fence)
        except UnicodeEncodeError as error:
            raise BankRefused("A lone surrogate cannot be sent to the bank: nothing was charged.") from error
        body = json.dumps({"account": account, "amount": amount, "reference": reference}, separators=(",", ":"))
        response = self._request("POST", "/debits", body.encode(), headers, expected=201)
        return _read(
            response, lambda found: DebitReceipt(**_row(found), replayed="Idempotent-Replayed" in response.headers)
        )

    def debits(self, reference: str | None = None, after: int = 0) -> Iterator[Debit]:
        """Yield the debits with numbers above ``after``, in order, optionally of one reference. Reads page by page.

        Raises BankUnavailable, BankRefused.
        """
        next_after: int | None = after
        while next_after is not None:
            asked: dict[str, Any] = {"after": next_after, "limit": _PAGE}
            if reference is not None:
                asked["reference"] = reference
            try:
                path = f"/debits?{urlencode(asked)}"
            except UnicodeEncodeError as error:
                raise BankRefused("A reference with a lone surrogate cannot be in the bank's books.") from error
            page, next_after = _read(self._request("GET", path), _page)
            yield from page

    def identity(self) -> str:
        """Return the identity of the bank's database. Numbers of debits are comparable only within one database.

        Asks ``GET /health``: raises BankUnavailable unless the bank and its database answer.
        """
        return _read(self._request("GET", "/health"), lambda found: str(found["identity"]))

    def close(self) -> None:
        """Close the idle connections; the client opens new ones when it is used again."""
        self._pool.close()
        self._open_pool()

    def set_fault(
        self, name: str, mode: str, references: Iterable[str], *, each: int = 1, delay_ms: int | None = None
    ) -> None:
        """Inject a fault into the debits of these references, each ``each`` times; the bank must run with ``--faults``.

        ``mode`` is ``lose_response``, ``refuse``, or ``slow`` with ``delay_ms``. Replaces the fault of the same name
        and its counts; leaves others alone. Raises BankRefused, BankUnavailable.
        """
        setting = {"mode": mode, "references": list(references), "each": each, "delay_ms": delay_ms}
        body = json.dumps({key: value for key, value in setting.items() if value is not None}).encode()
        self._fault("PUT", name, body)

    def fault_hits(self, name: str) -> dict[str, int]:
        """Return how often the fault was injected, per reference. Raises BankRefused if the bank has no such fault."""
        return self._fault("GET", name)

    def remove_fault(self, name: str) -> dict[str, int]:
        """Remove the fault, and return what ``fault_hits`` does. Raises BankRefused if the bank has no such fault."""
        return self._fault("DELETE", name)

    def _fault(self, method: str, name: str, body: bytes | None = None) -> dict[str, int]:
        response = self._request(method, f"/faults/{quote(name, safe='')}", body)
        return _read(response, lambda found: {reference: int(hits) for reference, hits in found["hits"].items()})

    def _request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        expected: int = 200,
    ) -> urllib3.BaseHTTPResponse:
        if self._pid != os.getpid():
            self._open_pool()
        # A GET is retried once, because the bank may just have closed a kept-alive connection; a POST never is.
        retries = urllib3.Retry(1 if method == "GET" else 0, redirect=False, respect_retry_after_header=False)
        try:
            response = self._pool.request(
                method, self._path + path, body=body, headers=headers, timeout=self._timeout, retries=retries
            )
        except HTTPError as error:
            cause = getattr(error, "reason", None) or error
            unsent = isinstance(cause, NewConnectionError | ConnectTimeoutError)
            what = "cannot be reached" if unsent else "did not answer"
            certain = unsent or method != "POST"
            meaning = "nothing was charged" if certain else "it is unknown whether the debit was made"
            raise BankUnavailable(
                f"The bank at {self.base_url} {what} ({cause}): {meaning}.", certain_not_charged=certain
            ) from error
        if response.status != expected:
            raise _error(response)
        return response

    def _open_pool(self) -> None:
        # Two processes on one connection would read each other's responses.
        self._pid = os.getpid()
        self._pool = urllib3.connection_from_url(self.base_url, maxsize=8)


def _as_header(key: str) -> str:
    """Return the key as an RFC 8941 string. Non-ASCII text is percent-encoded; a key too long for the bank is hashed."""
    encoded = quote(key, safe=_PLAIN)
    if len(encoded) > _LONGEST_KEY:
        encoded = "sha256-" + hashlib.sha256(key.encode()).hexdigest()
    escaped = encoded.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _error(response: urllib3.BaseHTTPResponse) -> BankError:
    problem: dict[str, Any] = {}
    if response.headers.get("Content-Type", "").startswith("application/problem+json"):
        try:
            found = response.json()
            problem = found if isinstance(found, dict) else {}
        except ValueError:
            pass
    detail = problem.get("detail") or "no details"
    message = f"The bank answered {response.status}: {detail}"
    if 400 <= response.status < 500:
        return _MEANINGS.get(response.status, BankRefused)(message)
    # A proxy's 503 proves nothing; only the bank's own says that nothing was charged.
    return BankUnavailable(message, certain_not_charged=problem.get("charged") is False)


def _read(response: urllib3.BaseHTTPResponse, reader: Callable[[Any], T]) -> T:
    try:
        return reader(response.json())
    except (ValueError, KeyError, TypeError) as error:
        raise BankUnavailable(
            f"The response ({response.status}) does not come from the bank: check BANK_URL. "
            "It is unknown whether a debit was made."
        ) from error


def _row(found: Mapping[str, Any]) -> dict[str, Any]:
    row = {name: found[name] for name in ("id", "account", "amount", "reference", "source")}
    return {**row, "created_at": datetime.fromisoformat(found["created_at"]).timestamp()}


def _page(found: Mapping[str, Any]) -> tuple[list[Debit], int | None]:
    return [Debit(**_row(row)) for row in found["debits"]], found["next"]
