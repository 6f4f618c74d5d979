"""The result in words: rows of a table, plain sentences, and both in a terminal of at most 100 columns."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

COLUMNS = 100
WIDE = 96
HEAD = (
    "pattern",
    "fault",
    "kills landed",
    "executions 0/1/2+",
    "charges 0/1/2+",
    "lost",
    "twice",
    "promise",
    "verdict",
)
_WORDS = {
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
    "quit": "when the worker was told to stop at once (SIGQUIT)",
    "stop": "when the process slept beyond lease and visibility timeout",
    "slow": "when the job outlived the visibility timeout",
    "poison": "when its process was killed at every attempt",
    "lost-response": "when the bank's answer was lost",
    "double-publish": "when the customer clicked twice",
    "publisher-crash": "when the publisher died between commit and publication",
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
    return HEAD, [_row(cell) for cell in result["cells"]]


def _row(cell: Mapping[str, Any]) -> tuple[str, ...]:
    kills = cell["kills"]
    return (
        _published_by(cell),
        cell["fault"] + (f" @{cell['point']}" if cell["point"] else ""),
        f"{kills['landed']}/{kills['planned']}" if kills["planned"] else "–",
        "/".join(str(cell["executions"][count]) for count in ("0", "1", "2+")),
        "/".join(str(cell["effects"][count]) for count in ("0", "1", "2+")),
        str(cell["lost"]),
        str(cell["duplicated"]),
        _WORDS.get(cell["semantics"], cell["semantics"]),
        verdict(cell),
    )


def _published_by(cell: Mapping[str, Any]) -> str:
    """The pattern, and the outbox where it was published through one that is not its own."""
    through = cell["publisher"] == "outbox" and cell["pattern"] != "outbox"
    return f"{cell['pattern']} +outbox" if through else str(cell["pattern"])


def verdict(cell: Mapping[str, Any]) -> str:
    """One or two words: the verdict, marked where it is not what was predicted."""
    return str(cell["observed"]) + ("" if cell["as_predicted"] or cell["observed"] == "unknown" else " (!)")


def reading(cell: Mapping[str, Any]) -> str:
    """What happened in this cell, for somebody who has not read anything else."""
    pattern, total = _published_by(cell), sum(cell["effects"].values())
    fault = _FAULTS.get(cell["fault"], f"under {cell['fault']}") + (f" at {cell['point']}" if cell["point"] else "")
    if cell["observed"] == "unknown":
        why = cell["reasons"][0] if cell["reasons"] else "evidence is missing"
        return f"{pattern}: it is unknown what happened {fault}: {why}."
    parts = []
    if cell["lost"]:
        parts.append(f"lost {cell['lost']}")
    if cell["duplicated"]:
        parts.append(f"charged twice or more {cell['duplicated']}")
    if cell["quarantined"]:
        parts.append(f"parked {cell['quarantined']}")
    if parts:
        happened = f"{' and '.join(parts)} of {total} charges"
    elif cell["effects"]["1"] == total:
        happened = f"charged all {total} exactly once"
    else:
        happened = f"charged {cell['effects']['1']} of {total} once and the others never"
    promise = _WORDS.get(cell["semantics"], cell["semantics"])
    kept = "held" if cell["observed"] == "held" else "was BROKEN"
    sentence = f"{pattern} {happened} {fault}; its promise ({promise}) {kept}."
    if not cell["as_predicted"]:
        sentence += f" That was not predicted ({'; '.join(cell['reasons'][:3]) or cell['predicted']})."
    return sentence


def sentences(result: Mapping[str, Any]) -> list[str]:
    """One sentence a cell, then one about the whole."""
    cells = result["cells"]
    if not cells:
        return ["Nothing was run, so nothing is known."]
    unknown = sum(cell["observed"] == "unknown" for cell in cells)
    wrong = sum(not cell["as_predicted"] for cell in cells) - unknown
    if result["as_predicted"]:
        last = f"Everything was as predicted in {len(cells)} {'cell' if len(cells) == 1 else 'cells'}."
    else:
        last = f"Of {len(cells)} cells, {wrong} were not as predicted and {unknown} are unknown."
    return [*(reading(cell) for cell in cells), last]


def render(console: Console, result: Mapping[str, Any]) -> None:
    """The table and the sentences, in at most 100 columns. Nothing in the result is taken for markup."""
    width = min(console.width, COLUMNS)
    grid = Table(box=box.SIMPLE_HEAD, width=width, pad_edge=False, collapse_padding=True, padding=(0, 1))
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
        console.print(Text(_plain(sentence)), width=width, soft_wrap=False)


def _plain(text: str) -> str:
    """No control characters: a task ID must not steer a terminal."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
