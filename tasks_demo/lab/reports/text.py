"""The result in words: rows of a table, plain sentences, and both in a terminal of at most 100 columns."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tasks_demo.core.wording import counted

COLUMNS = 100
WIDE = 96
#: The width of a console that writes to a pipe or a file.
UNBOUNDED = 10_000
HEAD = (
    "pattern",
    "fault",
    "kills injected",
    "executions 0/1/2+",
    "charges 0/1/2+",
    "lost",
    "twice",
    "promise",
    "verdict",
)
WORDS = {
    "at-most-once": "at most once",
    "at-least-once": "at least once",
    "effectively-once": "effectively once",
}
_FAULTS = {
    "none": "with no fault",
    "kill-child": "when the process running the task was killed",
    "kill-main": "when the worker was killed",
    "kill-group": "when the worker and all its processes were killed",
    "term": "when the worker was asked to stop (SIGTERM)",
    "quit": "when the worker was ordered to stop at once (SIGQUIT)",
    "stop": "when the process was stopped beyond lease and visibility timeout",
    "slow": "when the job outlived the visibility timeout",
    "poison": "when its process was killed at every attempt",
    "lost-response": "when the bank's answer was lost",
    "double-publish": "when the customer clicked twice",
    "publisher-crash": "when the publisher died between commit and publication",
    "hostile": "among hostile messages",
    "broker-kill": "when RabbitMQ was killed",
    "broker-kill-always": "when Redis was killed (append-only file, always)",
    "broker-kill-everysec": "when Redis was killed (append-only file, every second)",
    "broker-kill-off": "when Redis was killed (no append-only file)",
    "broker-flush": "when Redis was emptied",
    "broker-full": "when the memory of Redis was used up",
    "broker-read-only": "when Redis took no writes",
    "broker-disk-full": "when the disk of Redis was full",
    "database-kill": "when PostgreSQL was killed",
    "out-of-memory": "when the process ran out of memory",
    "clock-jump": "when the worker's clock jumped",
    "load": "when workers were killed under load",
}
#: Brokers in a sentence.
BROKERS = {
    "redis": "stock Redis",
    "reliable": "Redis by the reliable transport",
    "redis-plus": "Redis by celery-redis-plus",
    "rabbitmq-quorum": "RabbitMQ (quorum queues)",
    "rabbitmq-classic": "RabbitMQ (classic queues)",
}
_COLOURS = {"held": "green", "broken": "red", "unknown": "yellow"}


_NOT_CARRIED = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def carriable(text: str) -> str:
    """XML, HTML and UTF-8 cannot carry every character; those that they cannot are replaced."""
    return _NOT_CARRIED.sub("\N{REPLACEMENT CHARACTER}", text)


def cell_name(cell: Mapping[str, Any]) -> str:
    """Pattern, fault, point (if one was aimed at) and broker, e.g. ``acks_late kill-main at effect_done redis``."""
    point = f" at {cell['point']}" if cell["point"] else ""
    return f"{cell['pattern']} {cell['fault']}{point} {cell['broker']}".rstrip()


def table(result: Mapping[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The head and the rows, all text."""
    cells = result["cells"]
    head: tuple[str, ...] = HEAD
    if any(_is_own(cell) for cell in cells):
        head = tuple({"pattern": "task", "charges 0/1/2+": "effects 0/1/2+"}.get(title, title) for title in HEAD)
    return head, [_row(cell, several=several_brokers(result)) for cell in cells]


def several_brokers(result: Mapping[str, Any]) -> bool:
    """Whether rows and sentences must name the broker of their cell."""
    return len({cell["broker"] for cell in result["cells"]}) > 1


def _is_own(cell: Mapping[str, Any]) -> bool:
    """Whether the cell ran a task of the project, and not the demo's charges."""
    return bool(cell["judged"] != "books")


def _row(cell: Mapping[str, Any], *, several: bool) -> tuple[str, ...]:
    kills = cell["kills"]
    return (
        _published_by(cell) + (f" on {cell['broker']}" if several else ""),
        cell["fault"] + (f" @{cell['point']}" if cell["point"] else ""),
        f"{kills['landed']}/{kills['planned']}" if kills["planned"] else "–",
        "/".join(str(cell["executions"][count]) for count in ("0", "1", "2+")),
        "/".join(str(cell["effects"][count]) for count in ("0", "1", "2+")),
        str(cell["lost"]),
        str(cell["duplicated"]),
        WORDS.get(cell["semantics"], cell["semantics"]),
        verdict(cell),
    )


def in_short(cell: Mapping[str, Any]) -> str:
    """What was seen of the charges, in a few words: ``2 lost, 1 twice``, or ``once`` if nothing was amiss."""
    words = (("lost", "lost"), ("duplicated", "twice"), ("quarantined", "parked"))
    return ", ".join(f"{cell[kind]} {word}" for kind, word in words if cell[kind]) or "once"


def _published_by(cell: Mapping[str, Any]) -> str:
    """The pattern, and the outbox where it was published through one that is not its own."""
    through = cell["publisher"] == "outbox" and cell["pattern"] != "outbox"
    return f"{cell['pattern']} +outbox" if through else str(cell["pattern"])


def verdict(cell: Mapping[str, Any]) -> str:
    """One or two words: the verdict, marked where it is not what was predicted."""
    return str(cell["observed"]) + ("" if cell["as_predicted"] or cell["observed"] == "unknown" else " (!)")


def reading(cell: Mapping[str, Any], *, several: bool = False) -> str:
    """Return a sentence about this cell for a reader who has seen nothing else. ``several``: it names the broker."""
    total = sum(cell["effects"].values())
    pattern = _published_by(cell) + (f" on {BROKERS.get(cell['broker'], cell['broker'])}" if several else "")
    fault = _FAULTS.get(cell["fault"], f"under {cell['fault']}") + (f" at {cell['point']}" if cell["point"] else "")
    if cell["observed"] == "unknown":
        why = cell["reasons"][0] if cell["reasons"] else "evidence is missing"
        return f"{pattern}: it is unknown what happened {fault}: {why}."
    happened = _happened(cell, total)
    promise = WORDS.get(cell["semantics"], cell["semantics"])
    kept = "held" if cell["observed"] == "held" else "was BROKEN"
    if kept == "held" and (cell["lost"] or cell["duplicated"]):
        kept = "held, because it allows that"
    sentence = f"{pattern} {happened} {fault}; its promise ({promise}) {kept}."
    if cell.get("load"):
        sentence += under_load(cell)
    if _is_own(cell) and cell["observed"] == "broken":
        return f"{sentence} {'. '.join(cell['reasons'][:3])}."
    if not cell["as_predicted"]:
        sentence += f" That was not predicted ({'; '.join(cell['reasons'][:3]) or cell['predicted']})."
    return sentence


def under_load(cell: Mapping[str, Any]) -> str:
    """What is counted of a cell under load only, as a sentence with a space before it."""
    load, injected = cell["load"], cell["kills"]["landed"]
    if not injected:
        return ""
    low, high = load["lost_per_kill"]
    return (
        f" Lost per kill: {cell['lost'] / injected:.3g} (95 %: {low:.2g} to {high:.2g}); with about "
        f"{load['in_flight']['p50']} in flight, {counted(load['again'], 'second execution')}, of "
        f"{load['held']} that the killed workers held."
    )


def _happened(cell: Mapping[str, Any], total: int) -> str:
    """What happened to the charges, as a verb phrase: the pattern is the subject."""
    counts = (("lost {}", "lost"), ("made {} twice or more", "duplicated"), ("parked {}", "quarantined"))
    parts = [(words, cell[name]) for words, name in counts if cell[name]]
    if _is_own(cell):
        return _happened_to_jobs(cell, total)
    if total == 0:
        return "had no charges to make"
    if not parts:
        once = cell["effects"]["1"]
        if once == total:
            return "made its one charge exactly once" if total == 1 else f"charged all {total} exactly once"
        return (
            "never made its one charge" if total == 1 else f"made {once} of {total} charges once and the others never"
        )
    if total == 1:
        said = [words.format("its one charge" if not number else "it") for number, (words, _) in enumerate(parts)]
    else:
        said = [
            words.format(f"{count} of {total} charges" if not number else f"{count} of them")
            for number, (words, count) in enumerate(parts)
        ]
    return " and ".join(filter(None, [", ".join(said[:-1]), said[-1]]))


def _happened_to_jobs(cell: Mapping[str, Any], total: int) -> str:
    """The same for a task of the project, whose effects are not charges."""
    counts = (("lost {}", "lost"), ("did {} twice or more", "duplicated"), ("parked {}", "quarantined"))
    parts = [words.format(cell[name]) for words, name in counts if cell[name]]
    if parts:
        return f"{' and '.join(filter(None, [', '.join(parts[:-1]), parts[-1]]))} of {counted(total, 'job')}"
    once = cell["effects"]["1"]
    return (
        f"did {'its job' if total == 1 else f'all {total} jobs'} once"
        if once == total
        else f"did {once} of {counted(total, 'job')} once"
    )


def sentences(result: Mapping[str, Any]) -> list[str]:
    """One sentence a cell, then one about the whole."""
    cells = result["cells"]
    if not cells:
        return ["Nothing was run, so nothing is known."]
    unknown = sum(cell["observed"] == "unknown" for cell in cells)
    wrong = sum(not cell["as_predicted"] for cell in cells) - unknown
    if result["as_predicted"]:
        last = f"Everything was as predicted in {counted(len(cells), 'cell')}."
    else:
        found = [f"{wrong} {'was' if wrong == 1 else 'were'} not as predicted"] if wrong else []
        found += [f"{unknown} {'is' if unknown == 1 else 'are'} unknown"] if unknown else []
        last = f"Of {counted(len(cells), 'cell')}, {' and '.join(found)}."
    return [*(reading(cell, several=several_brokers(result)) for cell in cells), last]


def render(console: Console, result: Mapping[str, Any]) -> None:
    """The table and the sentences: in at most 100 columns of a window; nothing is wrapped or cut where lines have no bound.

    Nothing in the result is taken for markup.
    """
    width = min(console.width, COLUMNS)
    unbounded = console.width >= UNBOUNDED
    grid = Table(
        box=box.SIMPLE_HEAD, width=None if unbounded else width, pad_edge=False, collapse_padding=True, padding=(0, 1)
    )
    head, rows = table(result)
    # Where there is no room for it, the promise is in the sentences below; names and numbers stay whole.
    shown = [index for index, title in enumerate(head) if width >= WIDE or title != "promise"]
    for index in shown:
        heading, numeric = head[index].replace(" ", "\n", 1), 2 <= index <= 6
        grid.add_column(heading, justify="right" if numeric else "left", overflow="fold", no_wrap=numeric)
    for cell, row in zip(result["cells"], rows, strict=True):
        colour = _COLOURS[cell["observed"]] if cell["as_predicted"] or cell["observed"] == "unknown" else "red"
        grid.add_row(*(Text(_plain(row[index])) for index in shown[:-1]), Text(row[-1], style=colour))
    console.print(grid)
    for sentence in sentences(result):
        console.print(Text(_plain(sentence)), width=None if unbounded else width, soft_wrap=unbounded)


def _plain(text: str) -> str:
    """Replace control characters: a task ID must not control a terminal."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
