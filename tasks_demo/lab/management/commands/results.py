"""``manage.py results``: measure what the page of results shows, keep it compressed, and write the page."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError, CommandParser

from tasks_demo.core.wording import counted
from tasks_demo.lab.plan.brokers import kind_of
from tasks_demo.lab.plan.options import PATTERNS
from tasks_demo.lab.reports.results import PARTS, as_page, undetected
from tasks_demo.management.arguments import Exit, whole
from tasks_demo.management.base import PackageCommand

#: The options of each part's experiments. Small cells: every fault is injected exactly where it is aimed.
EXPERIMENTS = {
    "matrix": "--pattern all --fault all --tasks 20 --kills 4 --lanes 6",
    "points": "--pattern all --point all --tasks 4 --kills 2 --lanes 8",
    "controls": "--control all --tasks 4 --kills 2 --lanes 9",
    "campaign": "--pattern claim_first inbox dedup_lock outbox --fault kill-main --point mixed --tasks 250 --kills 100 --lanes 4",
    "rivals": "--rival all --tasks 4 --kills 2 --lanes 6",
    # More than two cores can do: the rate follows the workers, with 500 jobs in the queue.
    "soak": "--load 2000 --tasks 20000 --kills 10",
}
#: On RabbitMQ publishing waits for confirms, so that jobs without work would leave nothing in flight.
SOAK_ON_RABBITMQ = "--work 15"
ONE_SEED = ("matrix", "points")
#: Measured when nothing else is asked for. Each of the others takes longer than all of these together.
DEFAULT = [part for part in PARTS if part not in {"campaign", "soak"}]
SOAKED = "acks_late"
SUFFIX = ".json.gz"


class Command(PackageCommand):
    help = "Measure patterns, controls and libraries on a broker, keep the results in docs/results, and write docs/results.md."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--part", nargs="+", choices=[*PARTS], default=DEFAULT, help="default: all but campaign and soak"
        )
        parser.add_argument("--pattern", choices=PATTERNS, help=f"of soak; default {SOAKED}")
        parser.add_argument("--broker", default="redis", help="as for experiment")
        parser.add_argument("--name", help="what the page calls the broker; default: --broker")
        parser.add_argument("--seed", type=whole("--seed", 0, 2**63 - 1), default=1, help="the first; default 1")
        parser.add_argument(
            "--seeds",
            type=whole("--seeds", 1, 1000),
            default=20,
            help="of campaign, controls, rivals and soak; default 20",
        )
        parser.add_argument("--docs", type=Path, default=Path("docs"), metavar="FOLDER", help="default: docs")
        parser.add_argument(
            "--more",
            action="store_true",
            help="of soak and campaign: keep the seeds that --docs has, measure the others, and write each at once",
        )
        parser.add_argument("--page", action="store_true", help="measure nothing, only write the page")

    def handle(self, *args: Any, **options: Any) -> None:
        kept: Path = options["docs"] / "results"
        short = []
        if options["pattern"] and options["part"] != ["soak"]:
            raise CommandError("--pattern is about --part soak: leave it out.", returncode=Exit.USAGE)
        if options["more"] and not set(options["part"]) <= {"soak", "campaign"}:
            raise CommandError("--more is about --part soak and campaign: leave it out.", returncode=Exit.USAGE)
        for part in () if options["page"] else options["part"]:
            if part == "rivals" and find_spec("celery_once") is None:
                self.stderr.write("rivals: left out, pip install -r requirements-rivals.txt")
                continue
            seeds = 1 if part in ONE_SEED else options["seeds"]
            documents: list[dict[str, Any]] = []
            kept.mkdir(exist_ok=True)
            file = kept / f"{options['name'] or options['broker']}-{part}{SUFFIX}"
            pattern = (options["pattern"] or SOAKED) if part == "soak" else None
            known = {document["seed"]: document for document in of_pattern(file, pattern)} if options["more"] else {}
            for seed in range(options["seed"], options["seed"] + seeds):
                documents.append(known.get(seed) or self._measure(part, options, seed))
                if options["more"] and seed not in known:
                    known[seed] = documents[-1]
                    write(file, merged_with_other_patterns(file, [known[number] for number in sorted(known)]))
                if len(documents) < seeds:
                    self.stderr.write(progress(part, documents, seeds))
            short += undetected(documents)
            if not options["more"]:
                write(file, merged_with_other_patterns(file, documents) if part == "soak" else documents)
            for file in (settings.STATE_DIR / "results").glob(f"{_name(part, options)}-*.json"):
                file.unlink()
        (options["docs"] / "results.md").write_text(as_page(read(kept), relier_measurements(kept)), encoding="utf-8")
        for sentence in short:
            self.stderr.write(sentence)
        sys.exit(Exit.BROKEN if short else Exit.OK)

    def _measure(self, part: str, options: dict[str, Any], seed: int) -> dict[str, Any]:
        """Run one experiment, unless an earlier call that was interrupted has its result."""
        folder = settings.STATE_DIR / "results"
        folder.mkdir(parents=True, exist_ok=True)
        out = folder / f"{_name(part, options)}-{seed}.json"
        if not out.exists() or not out.stat().st_size:
            arguments = [
                *EXPERIMENTS[part].split(),
                "--broker",
                options["broker"],
                "--seed",
                str(seed),
                "--json",
                str(out),
            ]
            if part == "soak":
                slow = SOAK_ON_RABBITMQ.split() if kind_of(options["broker"]).family == "rabbitmq" else []
                code = self._soak(out, [*arguments, *slow, "--pattern", options["pattern"] or SOAKED])
            else:
                self.stderr.write(f"{part}, seed {seed} ...")
                code = _manage("experiment", *arguments, "--no-progress")  # its exit code is in the result
            if code not in (0, 1, 3):
                raise CommandError(f"{part}, seed {seed}: the experiment did not end.", returncode=Exit.NOT_READY)
        found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
        return found

    def _soak(self, out: Path, arguments: Sequence[str]) -> int:
        """Run one experiment in a folder of its own, with a ledger of its own: 20,000 jobs leave 0.2 GB, which are deleted.

        What did not end as predicted is kept beside ``out``.
        """
        folder, kept = out.with_name(f"{out.stem}.scratch"), out.with_name(f"{out.stem}.kept")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        log = folder / "log"
        _manage("migrate", "--verbosity", "0", state=folder, log=log)
        code = _manage("experiment", *arguments, "--no-progress", state=folder, log=log)
        if code:
            shutil.rmtree(kept, ignore_errors=True)
            folder.rename(kept)
            self.stderr.write(
                f"{out.stem}: exit code {code}; history and logs are in {kept}. {log.read_text()[-1000:]}"
            )
        shutil.rmtree(folder, ignore_errors=True)
        return code


def _manage(*arguments: str, state: Path | None = None, log: Path | None = None) -> int:
    """Run a command of manage.py and return its exit code. ``state``: its STATE_DIR; ``log``: gets what it says on stderr."""
    env = {**os.environ, "STATE_DIR": str(state)} if state else None
    with open(log or os.devnull, "ab") as file:
        return subprocess.run(
            [sys.executable, sys.argv[0], *arguments],
            stdout=subprocess.DEVNULL,
            stderr=file if log else None,
            env=env,
            check=False,
        ).returncode


def _name(part: str, options: dict[str, Any]) -> str:
    """What the files of a part's single results begin with."""
    pattern_suffix = f"-{options['pattern'] or SOAKED}" if part == "soak" else ""
    return f"{part}{pattern_suffix}-{options['name'] or options['broker']}"


def of_pattern(file: Path, pattern: str | None) -> list[dict[str, Any]]:
    """The documents that the file holds; those of one pattern, if one is named."""
    known = json.loads(gzip.decompress(file.read_bytes())) if file.exists() else []
    return [document for document in known if pattern in (None, document["cells"][0]["pattern"])]


def merged_with_other_patterns(file: Path, documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """These documents, and those of other patterns that the file holds."""
    mine = documents[0]["cells"][0]["pattern"]
    return [document for document in of_pattern(file, None) if document["cells"][0]["pattern"] != mine] + documents


def progress(part: str, documents: Sequence[dict[str, Any]], seeds: int) -> str:
    """Return a line that says how far a part is."""
    cells = [cell for document in documents for cell in document["cells"]]
    injected, lost = (
        sum(found) for found in zip(*((cell["kills"]["landed"], cell["lost"]) for cell in cells), strict=True)
    )
    other = sum(not cell["as_predicted"] for cell in cells)
    left = sum(document["duration_s"] for document in documents) / len(documents) * (seeds - len(documents))
    jobs = f"{sum(cell['tasks'] for cell in cells):,} jobs, {lost} lost, " if part == "soak" else ""
    return (
        f"{part}: {len(documents)} of {counted(seeds, 'seed')}, {jobs}{counted(injected, 'fault')} injected, "
        f"{counted(other, 'cell')} not as predicted, about {left / 60:.0f} min left"
    )


def write(file: Path, documents: list[dict[str, Any]]) -> None:
    """Keep the documents. The same documents give the same bytes."""
    text = json.dumps(documents, separators=(",", ":"), sort_keys=True)
    file.write_bytes(gzip.compress(text.encode(), mtime=0))


def relier_measurements(folder: Path) -> list[dict[str, Any]]:
    """The measurements of relier, one for each seed."""
    file = folder / "relier.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def read(folder: Path) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """What is kept: (broker, part) → documents."""
    found = {}
    for file in sorted(folder.glob(f"*{SUFFIX}")):
        broker, _, part = file.name.removesuffix(SUFFIX).rpartition("-")
        found[broker, part] = json.loads(gzip.decompress(file.read_bytes()))
    return found
