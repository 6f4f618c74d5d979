"""A rich console for the reports of experiments and benchmarks: in a terminal, a pipe or a file."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import IO, Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from tasks_demo.core.wording import escaped
from tasks_demo.management.output import carrying_all

#: Characters of a line in a pipe or a file: nobody's window is that wide, so nothing is wrapped or cut.
UNBOUNDED = 100_000


def console(options: Mapping[str, Any], stream: IO[str] | None = None) -> Console:
    """A console on ``stream`` (stdout by default), as Django's ``--no-color`` and ``--force-color`` in ``options`` say.

    In a terminal, lines are as wide as its window. In a pipe or a file they have no bound, whatever COLUMNS says. What the
    stream's encoding does not know is written in other characters, and control characters are spelled out.
    """
    out = carrying_all(stream or sys.stdout)
    return _Console(
        file=out,
        width=None if out.isatty() else UNBOUNDED,
        no_color=True if options.get("no_color") else None,
        force_terminal=True if options.get("force_color") else None,
    )


class _Console(Console):
    """Spells out control characters of what is printed: names, keys and messages of jobs are anybody's."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            if segment.control or segment.text == "\n" or segment.text.isprintable():
                yield segment
            else:
                yield Segment("\n".join(map(escaped, segment.text.split("\n"))), segment.style)
