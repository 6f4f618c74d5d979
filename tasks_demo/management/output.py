"""Format the commands' text output: tables, for any encoding, with control characters escaped."""

from __future__ import annotations

import codecs
import io
import shutil
import sys
import textwrap
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import IO

from tasks_demo.core.wording import escaped

_PLAIN = {"–": "-", "—": "-", "→": "->", "·": "|", "…": "...", "≤": "<=", "≥": ">=", "×": "x", "“": '"', "”": '"'}
_HANDLER = "tasks_demo.plain"
#: Between two columns of a table.
_GAP = "  "


def table(
    rows: Sequence[Sequence[str]],
    *,
    right: Container[int] = (),
    least: Mapping[int, int] | None = None,
    paint: Callable[[int, int, str], str] = lambda row, column, text: text,
) -> Iterator[str]:
    """Yield the rows as lines with aligned columns.

    ``right``: columns to align right. ``least``: minimum width per column, characters. ``paint``: takes row, column and padded
    text, and returns the coloured text. Control characters are escaped, except newlines in the last column, which is wrapped to
    the terminal's width. In a pipe or a file no line is wrapped or cut, even if COLUMNS is set.
    """
    cells = [[[escaped(cell)] for cell in row[:-1]] + [list(map(escaped, row[-1].split("\n")))] for row in rows]
    widths = [max(len(line) for cell in column for line in cell) for column in zip(*cells, strict=True)]
    widths = [max(width, (least or {}).get(column, 0)) for column, width in enumerate(widths)]
    last = len(widths) - 1
    room = shutil.get_terminal_size().columns - sum(widths[:last]) - len(_GAP) * last if sys.stdout.isatty() else 0
    for number, row in enumerate(cells):
        if room > 0:
            row[last] = [piece for line in row[last] for piece in textwrap.wrap(line, max(room, 20)) or [""]]
        for line in zip_longest(*row, fillvalue=""):
            padded = [
                text.rjust(width) if column in right else text.ljust(width) if column < last else text
                for column, (text, width) in enumerate(zip(line, widths, strict=True))
            ]
            yield _GAP.join(paint(number, column, text) for column, text in enumerate(padded)).rstrip()


def carrying_all(stream: IO[str]) -> IO[str]:
    """Make the stream replace characters that its encoding lacks, instead of raising UnicodeEncodeError; return it."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors=_HANDLER)
    return stream


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_PLAIN.get(character, "?") for character in error.object[error.start : error.end]), error.end


codecs.register_error(_HANDLER, _plain)
