"""``manage.py experiment``: kill real workers and check what happened against what was promised."""

from __future__ import annotations

import json
import random
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from tasks_demo.core.exceptions import DeliveryError
from tasks_demo.core.wording import counted
from tasks_demo.lab.plan import options as asked
from tasks_demo.lab.plan.cells import LANES, MIXED, MOST_CLICKS, Cell, dump_plan
from tasks_demo.lab.processes.run_folder import STATUS, is_run_name, runs_folder
from tasks_demo.lab.reports import document as report
from tasks_demo.lab.reports.console import console
from tasks_demo.management.arguments import Exit, whole

if TYPE_CHECKING:
    from tasks_demo.lab.engine.runner import Outcome

#: What is written into files of the user's choice.
WRITTEN = ("json", "junit", "markdown", "html", "events")


class Command(BaseCommand):
    help = "Run real workers, kill them at chosen moments, and check every charge against the promise of its pattern."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        what = parser.add_argument_group("what to run")
        many: dict[str, Any] = {"nargs": "+", "action": "extend"}
        what.add_argument("--pattern", choices=[*asked.PATTERNS, "all"], **many, help="default: all")
        what.add_argument(
            "--fault",
            choices=[*asked.FAULTS, "all"],
            **many,
            help="default: none kill-child kill-main; with --point the latter two",
        )
        what.add_argument(
            "--point",
            choices=[*asked.POINTS, MIXED, "all"],
            **many,
            help="aim every kill at this point, one cell per point; mixed: all points in one cell",
        )
        what.add_argument(
            "--broker", help="redis (the default: REDIS_URL, or an embedded one) or the address of a Redis server"
        )
        what.add_argument(
            "--tasks", type=whole("--tasks", 1, 1_000_000), help=f"operations per cell, default {asked.TASKS}"
        )
        what.add_argument(
            "--kills", type=whole("--kills", 1, 100_000), help="victims per cell, default a tenth of the jobs"
        )
        what.add_argument("--work", type=whole("--work", 0, 60_000), metavar="MS", help="work of each job, default 0")
        what.add_argument("--clicks", type=whole("--clicks", 1, MOST_CLICKS), help="task IDs per operation, default 1")
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
            "--lanes", type=whole("--lanes", 1, 64), help=f"at most so many cells side by side, default {LANES}"
        )
        what.add_argument("--plan", action="store_true", help="print the plan as JSON and run nothing")
        what.add_argument(
            "--replay", type=Path, metavar="FILE", help="run the plan of an earlier result or --plan again"
        )
        what.add_argument(
            "--run", metavar="NAME", help="the name of its folder below STATE_DIR/runs; the dashboard gives it"
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
        from tasks_demo.lab.engine.runner import Run
        from tasks_demo.lab.engine.screen import Screen
        from tasks_demo.lab.engine.status import Status

        seed, cells, left_out = self._cells(options)
        if options["plan"]:
            self.stderr.writelines(f"{sentence}\n" for sentence in left_out)
            self.stdout.write(dump_plan(cells, seed))
            return Exit.OK
        self._check_name(options["run"])
        self._check_targets({name: options[name] for name in WRITTEN if options[name] is not None})
        for number in (signal.SIGINT, signal.SIGTERM):  # also where a shell started us with SIGINT ignored
            signal.signal(number, _interrupt)
        live = not options["no_progress"] and sys.stderr.isatty()
        run = Run(
            cells,
            seed=seed,
            broker=options["broker"] or "redis",
            lanes=options["lanes"] or LANES,
            name=options["run"] or "",
        )
        with Status(run.folder, cells, run_id=run.run_id, seed=seed, started_at=run.started_at) as status:
            with Screen(cells, live=live, console=console(options, sys.stderr)) as screen:
                for sentence in left_out:
                    screen.say(sentence)
                screen.say(f"seed {seed} · {counted(len(cells), 'cell')} · logs and history in {run.folder}")
                outcome = run.execute(screen.show, status.show)
            code = self._report(outcome, options)
            status.ended(code)
        return code

    def _cells(self, options: dict[str, Any]) -> tuple[int, list[Cell], list[str]]:
        broker = options["broker"]
        if broker not in (None, "redis") and not broker.startswith(("redis://", "rediss://", "unix://")):
            raise CommandError(
                f"Unknown broker {broker!r}: write redis, or the address of a Redis server "
                "(redis://…, rediss://…, unix://…).",
                returncode=Exit.USAGE,
            )
        try:
            if options["plan"]:
                asked.beside_plan(options)
            if options["replay"]:
                asked.beside_replay(options)
                return (*self._replayed(options["replay"]), [])
            seed = random.SystemRandom().randrange(2**32) if options["seed"] is None else options["seed"]
            return (seed, *asked.cells_for(options, seed))
        except asked.Refused as error:
            raise CommandError(str(error), returncode=Exit.USAGE) from error

    def _replayed(self, path: Path) -> tuple[int, list[Cell]]:
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            found = document["plan"] if "plan" in document else document["configuration"]["plan"]
            cells = [Cell.from_dict(cell) for cell in found]
            if not cells:
                raise ValueError("no cells")
            return int(document["seed"]), cells
        except OSError as error:
            raise CommandError(f"{path} cannot be read: {error.strerror}.", returncode=Exit.USAGE) from error
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise CommandError(
                f"{path} holds no plan ({type(error).__name__}: {error}). Give it the output of --plan or a --json result.",
                returncode=Exit.USAGE,
            ) from error

    def _check_name(self, name: str | None) -> None:
        if name and not is_run_name(name):
            raise CommandError(f"--run {name!r} is not the name of a run. Nothing was run.", returncode=Exit.USAGE)
        if name and (runs_folder() / name / STATUS).exists():
            raise CommandError(f"--run {name}: that run was run already. Nothing was run.", returncode=Exit.USAGE)

    def _check_targets(self, targets: dict[str, str | Path]) -> None:
        known: dict[Path, str] = {}
        for option, target in targets.items():
            path = Path(target)
            if str(path) == "-":
                if option == "json":
                    continue
                raise CommandError(
                    f"--{option} - : only --json goes to stdout. Name a file. Nothing was run.", returncode=Exit.USAGE
                )
            if (other := known.setdefault(path.absolute(), option)) != option:
                raise CommandError(
                    f"--{other} and --{option} name the same file {path}. Nothing was run.", returncode=Exit.USAGE
                )
        for path, option in known.items():
            try:
                # Before the run, not after it: a result that cannot be written is a lost result.
                with path.open("a", encoding="utf-8"):
                    pass
            except OSError as error:
                raise CommandError(
                    f"--{option}: {targets[option]} cannot be written: {error.strerror}. Nothing was run.",
                    returncode=Exit.USAGE,
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
            report.render(console(options), result)
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


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
