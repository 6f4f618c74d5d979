"""``manage.py experiment``: kill real workers and check what happened against what was promised."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from django.core.management.base import CommandError, CommandParser

from tasks_demo.core.exceptions import DeliveryError
from tasks_demo.core.wording import counted
from tasks_demo.lab.management.experiment_options import add_options
from tasks_demo.lab.plan import options as plan_options
from tasks_demo.lab.plan.cells import LANES, Cell, dump_plan
from tasks_demo.lab.plan.project_task import ProjectTask
from tasks_demo.lab.processes.run_folder import STATUS, is_run_name, runs_folder
from tasks_demo.lab.reports import document as report
from tasks_demo.lab.reports.console import console
from tasks_demo.lab.reports.text import render
from tasks_demo.management.arguments import Exit
from tasks_demo.management.base import PackageCommand, output_failed

if TYPE_CHECKING:
    from tasks_demo.lab.engine.runner import RunResult

#: What is written into files of the user's choice.
WRITTEN = ("json", "junit", "markdown", "html", "events")


class Command(PackageCommand):
    help = "Run real workers, kill them at chosen moments, and check every charge against the promise of its pattern."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        add_options(parser)

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
            if isinstance(error, OSError) and output_failed(error):
                raise
            traceback.print_exc()
            raise CommandError(
                f"Internal error: {type(error).__name__}: {error}. This is a defect; please report it with the lines above.",
                returncode=Exit.INTERNAL,
            ) from error

    def _run(self, options: dict[str, Any]) -> int:
        from tasks_demo.lab.engine.runner import Run
        from tasks_demo.lab.engine.screen import Screen
        from tasks_demo.lab.engine.status import Status
        from tasks_demo.lab.processes.prerequisites import possible_here

        seed, cells, left_out = self._cells(options)
        if options["plan"]:
            self.stderr.writelines(f"{sentence}\n" for sentence in left_out)
            self.stdout.write(dump_plan(cells, seed))
            return Exit.OK
        cells, missing = possible_here(cells, everything="all" in (options["fault"] or ()))
        left_out += missing
        self._check_name(options["run"])
        self._check_targets({name: options[name] for name in WRITTEN if options[name] is not None})
        for number in (signal.SIGINT, signal.SIGTERM):  # also where a shell started us with SIGINT ignored
            signal.signal(number, signal.default_int_handler)
        run = Run(
            cells,
            seed=seed,
            broker=plan_options.broker_address(options),
            lanes=options["lanes"] or LANES,
            name=options["run"] or "",
            command="" if options["replay"] else plan_options.command_line(options, seed),
        )
        with Status(run.folder, cells, run_id=run.run_id, seed=seed, started_at=run.started_at) as status:
            with Screen(cells, quiet=options["no_progress"], console=console(options, sys.stderr)) as screen:
                for sentence in left_out:
                    screen.say(sentence)
                screen.say(f"seed {seed} · {counted(len(cells), 'cell')} · logs and history in {run.folder}")
                outcome = run.execute(screen.show, status.show)
            code = self._report(outcome, options)
            status.ended(code)
        return code

    def _cells(self, options: dict[str, Any]) -> tuple[int, list[Cell], list[str]]:
        try:
            if options["plan"]:
                plan_options.refuse_run_options(options)
            if options["replay"]:
                plan_options.refuse_planning_options(options)
                seed, cells = self._replayed(options["replay"])
                plan_options.refuse_other_broker(options, cells)
                return seed, cells, []
            seed = random.SystemRandom().randrange(2**32) if options["seed"] is None else options["seed"]
            return (seed, *plan_options.cells_for(options, seed, self._project_task(options)))
        except plan_options.OptionRefused as error:
            raise CommandError(str(error), returncode=Exit.USAGE) from error

    def _project_task(self, options: dict[str, Any]) -> ProjectTask | None:
        from tasks_demo.lab.processes.project_tasks import TaskUnusable, load_project_task

        if not options["task"]:
            return None
        try:
            return load_project_task(
                options["task"], options["calls"] or "", options["effects"] or "", options["promise"] or ""
            )
        except TaskUnusable as error:
            raise CommandError(f"{error} Nothing was run.", returncode=Exit.USAGE) from error

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

    def _report(self, outcome: RunResult, options: dict[str, Any]) -> int:
        result = outcome.result
        writers: list[tuple[str | Path | None, Callable[[], str]]] = [
            (options["json"], lambda: report.as_json(result)),
            (options["junit"], lambda: report.as_junit(result)),
            (options["markdown"], lambda: report.as_markdown(result)),
            (options["html"], lambda: report.as_html(result, outcome.events)),
            (options["events"], lambda: outcome.events.read_text(encoding="utf-8")),
        ]
        if options["json"] != "-":
            render(console(options), result)
            self.stdout.writelines(f"{note}\n" for note in outcome.notes)
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
        self._append_summary(result)
        if outcome.interrupted:
            self.stderr.write(f"Interrupted. Everything was ended; what was seen until then is in {outcome.folder}.")
            return Exit.INTERRUPTED
        if outcome.failure is not None:
            raise CommandError(
                f"{outcome.failure} What was seen until then is in {outcome.folder}.", returncode=Exit.NOT_READY
            )
        return report.exit_code(result)

    def _append_summary(self, result: dict[str, Any]) -> None:
        """In a job of GitHub Actions, add the result to the job's summary page."""
        if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
            try:
                with open(summary, "a", encoding="utf-8") as file:
                    file.write(f"### Experiment\n\n{report.as_markdown(result)}\n")
            except OSError as error:
                why = error.strerror
                self.stderr.write(f"GITHUB_STEP_SUMMARY: {summary} cannot be written ({why}). Nothing else is lost.")
