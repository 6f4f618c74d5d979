"""The example without Django, for tests of ``python -m tasks_demo.lab``."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests import forks
from tests.support import PROJECT, STATE, Finished

SHOP = PROJECT / "examples" / "plain_celery"
FEW = ("--tasks", "3", "--kills", "2", "--seed", "5")


@dataclass(frozen=True)
class Plain:
    """The example, with a folder of orders and a state folder of its own."""

    folder: Path

    def lab(self, *arguments: str, app: str = "shop.app:app", env: dict[str, str] | None = None) -> Finished:
        """Run the lab on it; ``app`` empty: without ``--app``."""
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("DJANGO_", "TASKS_DEMO_LEDGER"))
        }
        orders = self.folder / "orders"
        orders.mkdir(exist_ok=True)
        return Finished(*forks.run(
            ["-m", "tasks_demo.lab", *(["--app", app] if app else []), *arguments], cwd=SHOP, timeout=300,
            env={**kept, "PYTHONPATH": str(PROJECT), "STATE_DIR": str(self.folder), "SHOP_FOLDER": str(orders), **(env or {})},
        ))  # fmt: skip

    def result(self, *arguments: str, code: int) -> tuple[Finished, dict[str, Any]]:
        """Run an experiment; return what it said and its result, which follows the schema."""
        out = self.folder / "out.json"
        done = self.lab(*FEW, "--json", str(out), *arguments)
        assert done.code == code, done.err + done.out
        found: dict[str, Any] = json.loads(out.read_text())
        schema = PROJECT / "tasks_demo/lab/reports/experiment-1.schema.json"
        jsonschema.validate(found, json.loads(schema.read_text()))
        assert all(cell["kills"]["landed"] == cell["kills"]["planned"] > 0 for cell in found["cells"])
        return done, found


@pytest.fixture
def plain() -> Iterator[Plain]:
    with tempfile.TemporaryDirectory(prefix="p-", dir=STATE, ignore_cleanup_errors=True) as folder:
        yield Plain(Path(folder))
