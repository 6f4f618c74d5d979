"""Where commands print: a terminal, a pipe, or a stream that cannot carry every character."""

from __future__ import annotations

import codecs
import io
import sys
from collections.abc import Iterator, Mapping
from typing import IO, Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from tasks_demo.core.wording import escaped

#: Characters of a line in a pipe or a file: nobody's window is that wide, so nothing is wrapped or cut.
UNBOUNDED = 100_000
_PLAIN = {"–": "-", "—": "-", "→": "->", "·": "|", "…": "...", "≤": "<=", "≥": ">=", "×": "x", "“": '"', "”": '"'}
_HANDLER = "tasks_demo.plain"


def console(options: Mapping[str, Any], stream: IO[str] | None = None, **settings: Any) -> Console:
    """A console on ``stream`` (stdout by default), as Django's ``--no-color`` and ``--force-color`` in ``options`` say.

    In a terminal, lines are as wide as its window. In a pipe or a file they have no bound, whatever COLUMNS says. What the
    stream's encoding does not know is written in other characters, and what would steer the terminal is spelled out.
    """
    out = carrying_all(stream or sys.stdout)
    if not out.isatty():
        settings.setdefault("width", UNBOUNDED)
    return _Console(
        file=out,
        no_color=True if options.get("no_color") else None,
        force_terminal=True if options.get("force_color") else None,
        **settings,
    )


class _Console(Console):
    """Spells out control characters of what is printed: names, keys and messages of jobs are anybody's."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            if segment.control or segment.text == "\n" or segment.text.isprintable():
                yield segment
            else:
                yield Segment("\n".join(map(escaped, segment.text.split("\n"))), segment.style)


def carrying_all(stream: IO[str]) -> IO[str]:
    """The same stream, which from now on writes another character for one that its encoding does not know, and raises nothing."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors=_HANDLER)
    return stream


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_PLAIN.get(character, "?") for character in error.object[error.start : error.end]), error.end


codecs.register_error(_HANDLER, _plain)
