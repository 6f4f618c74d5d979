"""The page of results: what each pattern, control and library did on each broker, from results that were kept. Pure.

A part is a list of result documents: one for ``matrix`` and ``points``, one for each seed for the others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from tasks_demo.core.points import Point
from tasks_demo.core.wording import counted
from tasks_demo.lab.reports.other_libraries import outside
from tasks_demo.lab.reports.text import WORDS, in_short
from tasks_demo.lab.verdict.statistics import rate_interval, upper_bound

#: The parts, in the order of the page, and what each says.
PARTS = {
    "matrix": (
        "Patterns under faults",
        "What became of the charges. Lost and twice are allowed where the promise is kept.",
    ),
    "points": ("Patterns killed at each point", "SIGKILL exactly there, to the pool process or to the main process."),
    "controls": (
        "Controls: tasks that are wrong on purpose",
        "The lab must see each defect in its cell, in at least 95 % of the seeds, or its other verdicts are worth nothing.",
    ),
    "campaign": (
        "Campaign: many kills at all points",
        "SIGKILL of the main process, its point drawn for each kill. A violation is a charge that the promise excludes. "
        "The bound is the largest rate of violations per kill at which so few would be seen with a probability of 5 %.",
    ),
    "soak": (
        "Soak: kills at random moments under load",
        "Two workers of two processes each, a prefetch of 4 for each, about 500 jobs in the queue; SIGKILL of the main process "
        "of either at a random moment, and a cold start. The intervals are two-sided, 95 % (Garwood). A second execution is "
        "explained if a killed worker had the job in a body or unacknowledged; *held* counts those jobs.",
    ),
    "rivals": ("Libraries, as their documentation recommends them", "Their versions are in requirements-rivals.txt."),
}
_SOAK_HEAD = (
    "pattern", "held to", "jobs", "kills", "lost", "lost per kill", "second executions", "per kill", "held", "unexplained",
    "charged twice", "jobs/s, kills/s", "recovery: largest p50, s", "longest, s", "memory of a main, most: ready / killed, MB",
)  # fmt: skip
BROKERS = (
    "The same soak, further down the page, of the same pattern on different brokers: *redis* is kombu's stock "
    "transport, *reliable* the reliable transport of this package on the same Redis, *rabbitmq* has quorum queues and publisher "
    "confirms, and *redis-plus* is celery-redis-plus on a Redis 7, its workers on Python 3.13. The lab sets a "
    "visibility timeout of 10 s for *redis* (by default 3,600 s) and *redis-plus* (by default 300 s; it looks for what "
    "is due every 60 s, and when a worker starts); the other two have none. Speeds are of different days and of "
    "machines that did other work too: compare what was lost and what ran again."
)
#: The least share of seeds in which a control must be detected.
LEAST_DETECTED = 0.95
_ORDER = {str(point): place for place, point in enumerate(Point)}

Documents = Sequence[Mapping[str, Any]]


def as_page(parts: Mapping[tuple[str, str], Documents], measured: Documents = ()) -> str:
    """The Markdown page. ``parts``: (broker, part) → its documents; ``measured``: see ``outside``."""
    lines = [
        "# Results",
        "",
        "What the lab measured, made by `make results` from the results in `docs/results/` and never by hand. "
        "How it measures is in [the lab](explanation/lab.md); the fields are in [the reference](reference/experiment.md).",
    ]
    lines += _side_by_side({broker: documents for (broker, part), documents in parts.items() if part == "soak"})
    for broker in dict.fromkeys(broker for broker, _ in parts):
        lines += ["", f"## On {broker}"]
        for part, (title, what) in PARTS.items():
            documents = parts.get((broker, part))
            if documents:
                table = _TABLES.get(part, _by_seed)(documents)
                lines += ["", f"### {title}", "", what, "", *table, "", _made(documents)]
    lines += outside(measured, _table)
    return "\n".join(lines) + "\n"


def undetected(documents: Documents) -> list[str]:
    """A sentence for each cell that was not as predicted in enough seeds."""
    return [
        f"{name}: as predicted in {sum(cell['as_predicted'] for cell in cells)} of {counted(len(cells), 'seed')}"
        for name, cells in _grouped(documents).items()
        if sum(cell["as_predicted"] for cell in cells) < LEAST_DETECTED * len(cells)
    ]


def violations(cell: Mapping[str, Any]) -> int:
    """How many charges of this cell its promise excludes."""
    least, most = cell["promise"]["effects"]
    return int(cell["lost"] * (least > 0) + cell["duplicated"] * (most is not None))


def _campaign(documents: Documents) -> list[str]:
    rows = []
    for cells in _grouped(documents).values():
        first = cells[0]
        injected, seen = sum(cell["kills"]["landed"] for cell in cells), sum(map(violations, cells))
        counts = [
            injected,
            *(sum(cell[kind] for cell in cells) for kind in ("tasks", "lost", "duplicated", "suppressed")),
            seen,
        ]
        rows.append(
            (
                first["pattern"],
                WORDS.get(first["semantics"], first["semantics"]),
                *(f"{count:,}" for count in counts),
                f"{1e4 * upper_bound(seen, injected):.1f} in 10,000",
            )
        )
    return _table(
        ("pattern", "held to", "kills", "jobs", "lost", "twice", "copies suppressed", "violations", "95 % bound"), rows
    )


def _side_by_side(soaks: Mapping[str, Documents]) -> list[str]:
    """What the soak of each pattern says of each broker, for those that several brokers had."""
    rows = sorted((pattern, broker, row) for broker, found in soaks.items() for pattern, row in _soak_rows(found))
    brokers_of = Counter(pattern for pattern, _, _ in rows)
    chosen = [(pattern, broker, *row[1:]) for pattern, broker, row in rows if brokers_of[pattern] > 1]
    if not chosen:
        return []
    return ["", "## Brokers side by side", "", BROKERS, "", *_table(("pattern", "broker", *_SOAK_HEAD[1:]), chosen)]


def _soak(documents: Documents) -> list[str]:
    return _table(_SOAK_HEAD, (row for _, row in _soak_rows(documents)))


def _soak_rows(documents: Documents) -> list[tuple[str, tuple[str, ...]]]:
    """Each pattern, and its row."""
    rows = []
    for cells in _grouped(documents).values():
        first = cells[0]

        def total(of: Callable[[Mapping[str, Any]], int], cells: Sequence[Mapping[str, Any]] = cells) -> int:
            return sum(map(of, cells))

        kills, lost = total(lambda cell: cell["kills"]["landed"]), total(lambda cell: cell["lost"])
        again, jobs = total(lambda cell: cell["load"]["again"]), total(lambda cell: cell["tasks"])
        seconds = sum(cell["duration_s"] for cell in cells)
        rows.append(
            (
                first["pattern"],
                (
                    first["pattern"],
                    WORDS.get(first["semantics"], first["semantics"]),
                    *(f"{count:,}" for count in (jobs, kills, lost)),
                    _per_kill(lost, kills),
                    f"{again:,}",
                    _per_kill(again, kills),
                    f"{total(lambda cell: cell['load']['held']):,}",
                    str(total(lambda cell: cell["load"]["unexplained"])),
                    f"{total(lambda cell: cell['duplicated']):,}",
                    f"{jobs / seconds:.0f}, {kills / seconds:.2g}",
                    _greatest(cell["recovery_s"]["p50"] for cell in cells),
                    _greatest(cell["recovery_s"]["max"] for cell in cells),
                    " / ".join(
                        _greatest(cell["load"]["memory_mb"][when] for cell in cells) for when in ("ready", "killed")
                    ),
                ),
            )
        )
    return rows


def _per_kill(events: int, kills: int) -> str:
    if not kills:
        return "–"
    low, high = rate_interval(events, kills)
    return f"{events / kills:.3g} ({low:.2g} to {high:.2g})"


def _greatest(values: Iterable[float | None]) -> str:
    return f"{max((value for value in values if value is not None), default=0.0):.3g}"


def _matrix(documents: Documents) -> list[str]:
    cells = documents[0]["cells"]
    columns = list(dict.fromkeys((cell["fault"], cell["point"]) for cell in cells))
    columns.sort(
        key=lambda column: (column[0], _ORDER.get(column[1], -1)) if any(point for _, point in columns) else ("", 0)
    )
    patterns = list(dict.fromkeys(cell["pattern"] for cell in cells))
    at = {(cell["pattern"], cell["fault"], cell["point"]): cell for cell in cells}
    rows = [
        (f"{fault} @{point}" if point else fault, *(_short(at.get((pattern, fault, point))) for pattern in patterns))
        for fault, point in columns
    ]
    return _table(("fault", *patterns), rows)


def _short(cell: Mapping[str, Any] | None) -> str:
    """One cell in a few words: what was lost or repeated, of how many injected faults; bold where it is not as predicted."""
    if cell is None:
        return "–"
    if cell["observed"] == "unknown":
        return "**unknown**"
    said = f"{in_short(cell)} ({cell['kills']['landed']})"
    said += " broken" if cell["observed"] == "broken" else ""
    return said if cell["as_predicted"] else f"**{said}, not predicted**"


def _by_seed(documents: Documents) -> list[str]:
    rows = []
    for name, cells in _grouped(documents).items():
        first = cells[0]
        broken = sum(cell["observed"] == "broken" for cell in cells)
        rows.append(
            (
                name,
                WORDS.get(first["semantics"], first["semantics"]),
                first["predicted"],
                f"{broken} of {len(cells)}",
                f"{sum(cell['as_predicted'] for cell in cells)} of {len(cells)}",
                str(sum(cell["kills"]["landed"] for cell in cells)),
                str(sum(cell["lost"] for cell in cells)),
                str(sum(cell["duplicated"] for cell in cells)),
                first["why"],
            )
        )
    head = (
        "task",
        "held to",
        "predicted",
        "broken, seeds",
        "as predicted, seeds",
        "faults injected",
        "lost",
        "twice",
        "why",
    )
    return _table(head, rows)


def _grouped(documents: Documents) -> dict[str, list[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for document in documents:
        for cell in document["cells"]:
            point = f" @{cell['point']}" if cell["point"] else ""
            found.setdefault(f"{cell['pattern']}, {cell['fault']}{point}", []).append(cell)
    return found


#: What makes the table of a part; of the others, ``_by_seed``.
_TABLES = {"matrix": _matrix, "points": _matrix, "campaign": _campaign, "soak": _soak}


def _made(documents: Documents) -> str:
    first, numbers = documents[0], sorted({document["seed"] for document in documents})
    versions = ", ".join(f"{name} {version}" for name, version in first["versions"].items())
    seeds = f"Seed {numbers[0]}" if len(numbers) == 1 else f"Seeds {numbers[0]} to {numbers[-1]}"
    days = sorted({document["started_at"][:10] for document in documents})
    when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    jobs = sum(cell["tasks"] for document in documents for cell in document["cells"])
    injected = sum(cell["kills"]["landed"] for document in documents for cell in document["cells"])
    unknown = sum(cell["observed"] == "unknown" for document in documents for cell in document["cells"])
    command = first["configuration"].get("command", "")
    return (
        f"{seeds}, {when}, {counted(jobs, 'job')}, {counted(injected, 'fault')} injected, {unknown} unknown. "
        f"{versions}, {first['configuration']['database']}. `{command}`"
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return lines + ["| " + " | ".join(text.replace("|", "\\|") for text in row) + " |" for row in rows]
