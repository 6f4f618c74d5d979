"""``manage.py experiment``: kill real workers and check what happened against what was promised."""

from __future__ import annotations

import json
import random
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from rich.console import Console

from tasks_demo.exceptions import DeliveryError
from tasks_demo.lab import report
from tasks_demo.lab.faults import Fault
from tasks_demo.lab.plan import AIMABLE, MIXED, MOST_CLICKS, Cell, plan
from tasks_demo.lab.runner import LANES, Outcome, Run, dump_plan
from tasks_demo.lab.screen import Screen
from tasks_demo.management.arguments import Exit, whole
from tasks_demo.semantics import PROMISES

POINTS = list(dict.fromkeys(point for points in AIMABLE.values() for point in points))
DEFAULT_FAULTS = [Fault.NONE, Fault.KILL_CHILD, Fault.KILL_MAIN]
AIMED_FAULTS = [Fault.KILL_CHILD, Fault.KILL_MAIN]


class Command(BaseCommand):
    help = "Run real workers, kill them at chosen moments, and check every charge against the promise of its pattern."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        what = parser.add_argument_group("what to run")
        patterns, faults = list(PROMISES), [str(fault) for fault in Fault]
        points = [str(point) for point in POINTS]
        many: dict[str, Any] = {"nargs": "+", "action": "extend"}
        what.add_argument("--pattern", choices=[*patterns, "all"], **many, help="default: all")
        what.add_argument(
            "--fault",
            choices=[*faults, "all"],
            **many,
            help="default: none kill-child kill-main; with --point the latter two",
        )
        what.add_argument(
            "--point",
            choices=[*points, MIXED, "all"],
            **many,
            help="aim every kill at this point, one cell per point; mixed: all points in one cell",
        )
        what.add_argument("--broker", default="redis", help="redis (REDIS_URL, or an embedded one) or a Redis address")
        what.add_argument(
            "--tasks", type=whole("--tasks", 1, 1_000_000), default=100, help="jobs per cell, default 100"
        )
        what.add_argument(
            "--kills", type=whole("--kills", 1, 100_000), help="kills per cell, default a tenth of the jobs"
        )
        what.add_argument("--work", type=whole("--work", 0, 60_000), default=0, metavar="MS", help="work of each job")
        what.add_argument(
            "--clicks", type=whole("--clicks", 1, MOST_CLICKS), default=1, help="task IDs per operation, default 1"
        )
        what.add_argument(
            "--keyless",
            action="store_true",
            help="dedup_lock's jobs do not give the bank their key (shows a broken promise)",
        )
        what.add_argument(
            "--seed",
            type=whole("--seed", 0, 2**63 - 1),
            help="makes the plan reproducible; default: a random one, printed",
        )
        what.add_argument(
            "--lanes", type=whole("--lanes", 1, 64), default=LANES, help=f"cells side by side, default {LANES}"
        )
        what.add_argument("--plan", action="store_true", help="print the plan as JSON and run nothing")
        what.add_argument(
            "--replay", type=Path, metavar="FILE", help="run the plan of an earlier result or --plan again"
        )
        out = parser.add_argument_group("where results go, besides the table on stdout")
        out.add_argument("--json", metavar="FILE", help="the result document; - for stdout, instead of the table")
        out.add_argument("--junit", type=Path, metavar="FILE")
        out.add_argument("--markdown", type=Path, metavar="FILE")
        out.add_argument("--html", type=Path, metavar="FILE")
        out.add_argument("--events", type=Path, metavar="FILE", help="the whole history as JSON Lines")
        out.add_argument("--no-progress", action="store_true", help="no live progress on stderr")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            sys.exit(self._run(options))
        except DeliveryError as error:
            raise CommandError(str(error), returncode=Exit.NOT_READY) from error
        except KeyboardInterrupt:
            raise CommandError("Interrupted before anything ran.", returncode=Exit.INTERRUPTED) from None
        except (CommandError, SystemExit):
            raise
        except Exception as error:
            traceback.print_exc()
            raise CommandError(
                f"Internal error: {type(error).__name__}: {error}. This is a defect; please report it with the lines above.",
                returncode=Exit.INTERNAL,
            ) from error

    def _run(self, options: dict[str, Any]) -> int:
        seed, cells = self._cells(options)
        if options["plan"]:
            self.stdout.write(dump_plan(cells, seed))
            return Exit.OK
        for name in ("json", "junit", "markdown", "html", "events"):
            self._check_writable(name, options[name])
        for number in (signal.SIGINT, signal.SIGTERM):  # also where a shell started us with SIGINT ignored
            signal.signal(number, _interrupt)
        live = not options["no_progress"] and sys.stderr.isatty()
        with Screen(cells, live=live) as screen:
            run = Run(cells, seed=seed, broker=options["broker"], lanes=options["lanes"], progress=screen.show)
            screen.say(f"seed {seed} · {len(cells)} cells · logs and history in {run.folder}")
            outcome = run.execute()
        return self._report(outcome, options)

    def _cells(self, options: dict[str, Any]) -> tuple[int, list[Cell]]:
        if options["broker"] != "redis" and not options["broker"].startswith(("redis://", "rediss://", "unix://")):
            raise CommandError(
                f"Unknown broker {options['broker']!r}: write redis, or the address of a Redis server "
                "(redis://…, rediss://…, unix://…).",
                returncode=Exit.USAGE,
            )
        if options["replay"]:
            return self._replayed(options)
        seed = random.SystemRandom().randrange(2**32) if options["seed"] is None else options["seed"]
        if (options["kills"] or 0) > options["tasks"]:
            raise CommandError(
                f"--kills {options['kills']} is more than --tasks {options['tasks']}: each job is hit once at most.",
                returncode=Exit.USAGE,
            )
        points = _chosen(options["point"], [str(point) for point in POINTS], [])
        usual = AIMED_FAULTS if points else DEFAULT_FAULTS
        cells = plan(
            patterns=_chosen(options["pattern"], list(PROMISES), list(PROMISES)),
            faults=[Fault(name) for name in _chosen(options["fault"], [str(fault) for fault in Fault], usual)],
            points=points,
            broker="redis",
            seed=seed,
            tasks=options["tasks"],
            kills=options["kills"],
            work_ms=options["work"],
            clicks=options["clicks"],
            keyless=options["keyless"],
        )
        if not cells:
            raise CommandError("Nothing to run: none of the patterns has any of the points.", returncode=Exit.USAGE)
        return seed, cells

    def _replayed(self, options: dict[str, Any]) -> tuple[int, list[Cell]]:
        if any(options[name] for name in ("pattern", "fault", "point", "kills")) or options["seed"] is not None:
            raise CommandError("--replay brings its own plan: leave the other choices out.", returncode=Exit.USAGE)
        path: Path = options["replay"]
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            found = document["plan"] if "plan" in document else document["configuration"]["plan"]
            cells = [Cell.from_dict(cell) for cell in found]
            if not cells or any(cell.pattern not in PROMISES for cell in cells):
                raise ValueError("no cells, or an unknown pattern")
            return int(document["seed"]), cells
        except OSError as error:
            raise CommandError(f"{path} cannot be read: {error.strerror}.", returncode=Exit.USAGE) from error
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise CommandError(
                f"{path} holds no plan ({type(error).__name__}: {error}). Give it the output of --plan or a --json result.",
                returncode=Exit.USAGE,
            ) from error

    def _check_writable(self, option: str, target: str | Path | None) -> None:
        if target is None or target == "-":
            return
        path = Path(target)
        try:
            # Before the run, not after it: a result that cannot be written is a lost result.
            with path.open("a", encoding="utf-8"):
                pass
        except OSError as error:
            raise CommandError(
                f"--{option}: {path} cannot be written: {error.strerror}. Nothing was run.", returncode=Exit.USAGE
            ) from error

    def _report(self, outcome: Outcome, options: dict[str, Any]) -> int:
        result = outcome.result
        writers: list[tuple[str | Path | None, Callable[[], str]]] = [
            (options["json"], lambda: report.as_json(result)),
            (options["junit"], lambda: report.as_junit(result)),
            (options["markdown"], lambda: report.as_markdown(result)),
            (options["html"], lambda: report.as_html(result)),
            (options["events"], lambda: outcome.events.read_text(encoding="utf-8")),
        ]
        if options["json"] != "-":
            report.render(Console(file=sys.stdout), result)
        for target, write in writers:
            if target == "-":
                self.stdout.write(write(), ending="")
            elif target is not None:
                try:
                    Path(target).write_text(write(), encoding="utf-8")
                except OSError as error:
                    raise CommandError(
                        f"{target} could not be written: {error.strerror}. The results are kept in {outcome.folder}.",
                        returncode=Exit.INTERNAL,
                    ) from error
        if outcome.interrupted:
            self.stderr.write(f"Interrupted. Everything was ended; what was seen until then is in {outcome.folder}.")
            return Exit.INTERRUPTED
        if outcome.failure is not None:
            raise CommandError(
                f"{outcome.failure} What was seen until then is in {outcome.folder}.", returncode=Exit.NOT_READY
            )
        return report.exit_code(result)


def _chosen(given: list[str] | None, everything: list[str], default: list[Any]) -> list[Any]:
    if not given:
        return default
    return everything if "all" in given else list(dict.fromkeys(given))


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
