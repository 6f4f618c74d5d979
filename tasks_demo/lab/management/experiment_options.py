"""The options of ``manage.py experiment``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.core.management.base import CommandParser

from tasks_demo.core.semantics import Semantics
from tasks_demo.lab import controls
from tasks_demo.lab.plan import options as plan_options
from tasks_demo.lab.plan.brokers import QUEUES
from tasks_demo.lab.plan.cells import LANES, MIXED, MOST_CLICKS, MOST_LOAD
from tasks_demo.management.arguments import filled, whole


def add_options(parser: CommandParser) -> None:
    """Add what ``plan.options`` reads, and where results go."""
    what = parser.add_argument_group("what to run")
    many: dict[str, Any] = {"nargs": "+", "action": "extend"}
    what.add_argument("--pattern", choices=[*plan_options.PATTERNS, "all"], **many, help="default: all")
    what.add_argument(
        "--fault",
        metavar="FAULT",
        **many,
        help=f"{', '.join(plan_options.FAULTS)}; two at the same job: 'kill-main + cut'; or all. Default: none kill-child "
        "kill-main; with --point the latter two",
    )
    what.add_argument(
        "--point",
        choices=[*plan_options.POINTS, MIXED, "all"],
        **many,
        help="aim every kill at this point, one cell per point; mixed: all points in one cell",
    )
    what.add_argument("--task", type=filled, metavar="NAME", help="try this task of the project, instead of the demo's")
    what.add_argument(
        "--args",
        dest="calls",
        type=filled,
        metavar="FILE",
        help="with --task: its jobs, one a line: an array of arguments, or an object of them",
    )
    what.add_argument(
        "--effects",
        type=filled,
        metavar="MODULE:CALLABLE",
        help="with --task: called with the arguments of a job, returns how often it took effect; "
        "default: executions that returned are judged",
    )
    what.add_argument(
        "--promise",
        choices=[str(one) for one in Semantics],
        help="with --task: what to hold it to; default: its declaration",
    )
    what.add_argument(
        "--control",
        choices=[*controls.CONTROLS, "all"],
        **many,
        help="run tasks that are wrong on purpose, where their defect must be seen",
    )
    what.add_argument(
        "--rival",
        choices=[*controls.RIVALS, "all"],
        **many,
        help="run tasks of other libraries (requirements-rivals.txt)",
    )
    what.add_argument(
        "--broker",
        type=filled,
        metavar="NAME|ADDRESS",
        nargs="+",
        help="redis (the default: REDIS_URL, or an embedded one, by stock kombu), reliable (the same by the reliable transport), "
        "rabbitmq (BROKER_URL, or this machine's), redis-plus (celery-redis-plus, on a Redis 7); several: each cell on each; "
        "or one address",
    )
    what.add_argument("--queue", choices=QUEUES, help="the type of RabbitMQ's queues, default quorum")
    what.add_argument(
        "--tasks", type=whole("--tasks", 1, 1_000_000), help=f"operations per cell, default {plan_options.TASKS}"
    )
    what.add_argument(
        "--kills", type=whole("--kills", 1, 100_000), help="victims per cell, default a tenth of the jobs"
    )
    what.add_argument(
        "--work",
        type=whole("--work", 0, 60_000),
        metavar="MS",
        help="work of each job, default 0; with --task: the longest time that its body takes",
    )
    what.add_argument("--clicks", type=whole("--clicks", 1, MOST_CLICKS), help="task IDs per operation, default 1")
    what.add_argument(
        "--keyless",
        action="store_true",
        help="dedup_lock's jobs do not give the bank their key (shows a broken promise)",
    )
    what.add_argument(
        "--load",
        type=whole("--load", 1, MOST_LOAD),
        metavar="RATE",
        help="publish at most RATE jobs per second, and kill the main process of one of two workers at random moments "
        f"(default: {plan_options.LOAD_TASKS} jobs, a kill for every {plan_options.LOAD_JOBS_PER_KILL})",
    )
    what.add_argument(
        "--seed",
        type=whole("--seed", 0, 2**63 - 1),
        help="makes the plan reproducible; default: a random one, printed",
    )
    what.add_argument(
        "--lanes", type=whole("--lanes", 1, 64), help=f"maximum number of cells side by side, default {LANES}"
    )
    what.add_argument("--plan", action="store_true", help="print the plan as JSON and run nothing")
    what.add_argument("--replay", type=Path, metavar="FILE", help="run the plan of an earlier result or --plan again")
    what.add_argument(
        "--run", type=filled, metavar="NAME", help="the name of its folder below STATE_DIR/runs; the dashboard gives it"
    )
    out = parser.add_argument_group("where results go, besides the table on stdout")
    out.add_argument("--json", metavar="FILE", help="the result document; - for stdout, instead of the table")
    out.add_argument("--junit", type=Path, metavar="FILE")
    out.add_argument("--markdown", type=Path, metavar="FILE")
    out.add_argument("--html", type=Path, metavar="FILE")
    out.add_argument("--events", type=Path, metavar="FILE", help="the whole history as JSON Lines")
    out.add_argument("--no-progress", action="store_true", help="no progress on stderr")
