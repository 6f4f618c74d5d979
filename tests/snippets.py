"""Parse the fenced blocks of README and docs, and the comments that make them run.

python   run in the project under examples/bookshop, page by page; a real worker runs its tasks
console  a session: each ``$ command`` is run and its output compared; ``...`` matches anything
sh       commands: each is parsed by the program it calls, and not run
text, mermaid   not code

``<!-- setup`` before a block holds code that the reader has and the page does not show.
``<!-- check`` after a block holds what must be true then.
``<!-- not run: reason -->`` before a block excludes it.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support import PROJECT

LANGUAGES = {"python", "console", "sh", "text", "mermaid"}
_PIECE = re.compile(
    r"^<!-- (?P<comment>setup|check)\n(?P<code>.*?)^-->$"
    r"|^<!-- not run: (?P<reason>[^\n]+) -->$"
    r"|^(?P<indent> *)```(?P<language>[^\n`]*)\n(?P<block>.*?)^ *```$",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Piece:
    """One block or comment. ``kind`` is a language, ``setup`` or ``check``; ``skipped`` says why it is not run, or is empty."""

    page: str
    line: int
    kind: str
    text: str
    skipped: str = ""

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[Path]:
    """README and every page under docs and examples."""
    return [
        PROJECT / "README.md",
        *sorted((PROJECT / "docs").rglob("*.md")),
        *sorted((PROJECT / "examples").rglob("*.md")),
    ]


def pieces(text: str, page: str) -> Iterator[Piece]:
    """The blocks and comments of a page, in order."""
    reason = ""
    for found in _PIECE.finditer(text):
        line = text.count("\n", 0, found.start()) + 1
        if found["reason"]:
            reason = found["reason"]
            continue
        kind = found["comment"] or found["language"].strip()
        yield Piece(page, line, kind, found["code"] or textwrap.dedent(found["block"] or ""), reason)
        reason = ""


def everything() -> list[Piece]:
    """All pieces of all pages."""
    return [
        piece for path in pages() for piece in pieces(path.read_text(encoding="utf-8"), str(path.relative_to(PROJECT)))
    ]


def commands(block: str) -> list[str]:
    """The commands of a ``sh`` block, with continued lines joined, and without comments and empty lines."""
    lines = re.sub(r"\\\n\s*", " ", block).splitlines()
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


def session(block: str) -> list[tuple[str, str]]:
    """The commands of a ``console`` block, each with its expected output."""
    steps: list[tuple[str, list[str]]] = []
    for line in re.sub(r"\\\n\s*", " ", block).splitlines():
        if line.startswith("$ "):
            steps.append((line[2:], []))
        else:
            steps[-1][1].append(line)
    return [(command, "\n".join(said)) for command, said in steps]


def printed(expected: str) -> re.Pattern[str]:
    """A pattern for the expected output; ``...`` matches anything."""
    return re.compile(".*?".join(re.escape(part) for part in expected.split("...")), re.DOTALL)
