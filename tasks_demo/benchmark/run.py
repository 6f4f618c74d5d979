"""Measures the budgets as ratios in one run.

Does **not** measure a broker or a database on another machine, tasks that do work, or more than two pool processes.

``manage.py benchmark`` runs this module in a separate process with its own STATE_DIR, so that it touches no database or Redis of
the user::

    python -m tasks_demo.benchmark.run SIZES RESULT      SIZES: JSON of ``Sizes``; RESULT: the file for the document
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import django
from django.conf import settings
from django.core.management import call_command
from django.db import connections

from tasks_demo.core.exceptions import DeliveryError
from tasks_demo.management.arguments import Exit

#: The parts that ``--only`` can select.
PARTS = (
    "start",
    "kills",
    "recovery",
    "throughput",
    "patterns",
    "latency",
    "transport",
    "point",
    "dashboard",
    "watched",
)


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much to measure.

    ``rounds``: rounds of everything except kills, each with ``tasks`` tasks or ``jobs`` single jobs. ``campaigns``: campaigns of
    ``kills`` kills of main processes in each of four lanes. ``deaths``: kills of pool processes. ``task_ids``: size of the ledger
    whose pages are measured with ``requests`` requests each; ``as_it_is``: they are there already.
    """

    rounds: int = 5
    tasks: int = 400
    jobs: int = 8
    campaigns: int = 3
    kills: int = 10
    deaths: int = 60
    task_ids: int = 1_000_000
    requests: int = 50
    as_it_is: bool = False
    parts: Sequence[str] = field(default=PARTS)

    @classmethod
    def quick(cls) -> Sizes:
        """Return sizes that show that the benchmark works, but are too small for usable figures."""
        return cls(rounds=2, tasks=150, jobs=4, campaigns=1, kills=3, deaths=6, task_ids=5_000, requests=5)


def main(sizes: str, result: str) -> int:
    """Migrate the scratch databases, measure, and write the document. Returns the exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    live = sys.stderr.isatty()

    def say(text: str) -> None:
        if live:
            sys.stderr.write(f"\r\033[K{text}")
            sys.stderr.flush()

    try:
        django.setup()
        from tasks_demo.benchmark.parts import measure  # imports models

        say("making scratch databases")
        for alias in set(connections) - {"bank"}:  # the bank creates its own
            call_command("migrate", database=alias, verbosity=0, interactive=False)
        document = measure(Sizes(**json.loads(sizes)), settings.STATE_DIR, say)
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except DeliveryError as error:
        say("")
        sys.stderr.write(f"{error}\n")
        return Exit.NOT_READY
    say("")
    Path(result).write_text(json.dumps(document, indent=2), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
