"""Copies new effects from the bank's books before a screen is shown, with a short bound.

A screen must not wait for the bank: one attempt in a few seconds per process, each bounded, and whatever fails
becomes a sentence on the screen. What was not copied in time is copied by the next attempt.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from django.db import DatabaseError

from tasks_demo import clock
from tasks_demo.bank.client import BankClient, BankError, Debit
from tasks_demo.conf import settings
from tasks_demo.exceptions import DeliveryError
from tasks_demo.ledger.effects import read_books, settle

#: Bound on each wait for the bank, seconds. A GET is tried twice by the client.
TIMEOUT_SECONDS = 0.25
#: An attempt copies no further debit after this long, seconds.
BUDGET_SECONDS = 0.4
#: Seconds between two attempts of one process.
PAUSE_SECONDS = 5.0
#: A task is settled only if it ended this long before the books were read, seconds: clocks differ.
MARGIN_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Freshness:
    """How new the effects on the screen are. ``trouble`` is empty, or a sentence; ``as_of`` None: never read here."""

    as_of: datetime | None
    trouble: str = ""


class _InTime(BankClient):
    """A client that stops handing out debits when the time is up, and remembers that it did."""

    def __init__(self, base_url: str) -> None:
        super().__init__(base_url, TIMEOUT_SECONDS)
        self.cut_short = False
        self._deadline = time.monotonic() + BUDGET_SECONDS

    def debits(self, reference: str | None = None, after: int = 0) -> Iterator[Debit]:
        for debit in super().debits(reference, after):
            if time.monotonic() > self._deadline:
                self.cut_short = True
                return
            yield debit


class Refresher:
    """One per process. Safe to call from several threads: one of them copies, the others do not wait."""

    def __init__(self, pause_seconds: float = PAUSE_SECONDS) -> None:
        self.pause_seconds = pause_seconds
        self._lock = threading.Lock()
        self._next_attempt = 0.0
        self._now = Freshness(as_of=None)

    def __call__(self) -> Freshness:
        """Copy what is new, unless that was tried a moment ago. Raises nothing that the bank or Redis can cause."""
        if time.monotonic() >= self._next_attempt and self._lock.acquire(blocking=False):
            try:
                self._now = self._attempt()
                self._next_attempt = time.monotonic() + self.pause_seconds
            finally:
                self._lock.release()
        return self._now

    def _attempt(self) -> Freshness:
        began = time.time()
        before = self._now.as_of
        try:
            if not settings.BANK_URL:
                return Freshness(before)
            client = _InTime(settings.BANK_URL)
            try:
                read_books(client)
            finally:
                client.close()
            if client.cut_short:
                return Freshness(
                    before, "the bank's books hold more news than could be read in time; reload to read on"
                )
            settle(before=began - MARGIN_SECONDS)
        except BankError:
            return Freshness(before, "the bank does not answer")
        except (DeliveryError, DatabaseError):
            return Freshness(before, "the ledger's database did not take them")
        except ValueError:
            return Freshness(before, "BANK_URL is not an address")
        return Freshness(clock.moment(began))


refresh = Refresher()
