"""The bank's row of ``manage.py doctor``. It never fails, because only the demo's tasks need the bank."""

from __future__ import annotations

from tasks_demo.demo.bank.client import BankClient, BankError
from tasks_demo.demo.conf import settings
from tasks_demo.doctor.connections import PART
from tasks_demo.doctor.findings import PATIENCE, Finding, address, ok, warn


def bank() -> list[Finding]:
    """Return one row: whether the bank answers."""
    url = settings.BANK_URL
    try:
        BankClient(url, PATIENCE).identity()
    except (BankError, ValueError):
        fix = "Only the demo's tasks need it: run `python manage.py bank`, or `make up` for everything."
        return [warn(PART, "bank", f"no answer from {address(url) or 'BANK_URL'}", fix)]
    return [ok(PART, "bank", address(url))]
