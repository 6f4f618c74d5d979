"""What ``manage.py doctor`` says about the bank. For information: only the demo tasks need it."""

from __future__ import annotations

from tasks_demo.demo.bank.client import BankClient, BankError
from tasks_demo.demo.conf import settings
from tasks_demo.doctor.connections import PART
from tasks_demo.doctor.rows import PATIENCE, Row, State, address


def bank() -> list[Row]:
    """One row: whether the bank answers."""
    url = settings.BANK_URL
    try:
        BankClient(url, PATIENCE).identity()
    except (BankError, ValueError):
        fix = "Only the demo jobs need it: `python manage.py bank`, or `make up` for everything."
        return [Row(PART, "bank", State.WARN, f"no answer from {address(url) or 'BANK_URL'}", fix)]
    return [Row(PART, "bank", State.OK, address(url))]
