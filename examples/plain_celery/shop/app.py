"""The Celery app: ``celery -A shop.app worker``. Orders are files in SHOP_FOLDER, one line for each charge."""

import os
from pathlib import Path

from celery import Celery

app = Celery("shop", broker=os.environ.get("SHOP_BROKER_URL", "redis://127.0.0.1:6379/6"))
app.conf.task_default_queue = "shop"


def folder() -> Path:
    return Path(os.environ["SHOP_FOLDER"])


def _charge(order: str, cents: int) -> None:
    with (folder() / order).open("a") as charges:
        charges.write(f"{cents}\n")


@app.task(name="shop.charge")
def charge(order: str, cents: int = 100) -> None:
    """As Celery ships it: acknowledged before the body."""
    _charge(order, cents)


@app.task(name="shop.charge_late", acks_late=True)
def charge_late(order: str, cents: int = 100) -> None:
    """Acknowledged after the body; ``task_reject_on_worker_lost`` is forgotten."""
    _charge(order, cents)


@app.task(name="shop.charge_surely", acks_late=True, reject_on_worker_lost=True, queue="money")
def charge_surely(order: str, cents: int = 100) -> None:
    """Acknowledged after the body, also when its process is killed."""
    _charge(order, cents)
    receipt.delay(order)


@app.task(name="shop.receipt")
def receipt(order: str) -> None:
    """Published by another task."""


@app.task(name="shop.fail")
def fail(order: str, cents: int = 100) -> None:
    """Always fails."""
    raise ValueError(f"no such order: {order}")


def charges(order: str, cents: int = 100) -> int:
    """How often an order was charged: what the lab asks (``--effects shop.app:charges``)."""
    path = folder() / order
    return len(path.read_text().splitlines()) if path.exists() else 0
