"""``python -m tasks_demo.lab.verdict EVENTS.jsonl``: check a history without Django, Celery or Redis."""

from __future__ import annotations

import argparse
import gc
import io
import json
import sys
from collections.abc import Sequence

from tasks_demo.core.wording import counted
from tasks_demo.lab.verdict.checker import judge
from tasks_demo.lab.verdict.evidence import gather
from tasks_demo.lab.verdict.findings import name
from tasks_demo.lab.verdict.history import HistoryError, read


def main(arguments: Sequence[str] | None = None) -> int:
    """Check a file. 0: all held, 1: a promise is broken, 3: unknown, 2: not a history, or wrong usage."""
    parser = argparse.ArgumentParser(
        prog="python -m tasks_demo.lab.verdict",
        description="Check the history of an experiment against the promises of its patterns.",
        epilog="exit code: 0 all held, 1 a promise was broken, 3 unknown, 2 the file is not a history",
    )
    parser.add_argument("events", metavar="EVENTS.jsonl", help="written by manage.py experiment --events; - is stdin")
    parser.add_argument("--json", action="store_true", help="one JSON array instead of sentences")
    options = parser.parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a history may hold what this terminal's encoding does not
    try:
        if options.events == "-":
            found = gather(read(sys.stdin.buffer))
        else:
            with open(options.events, "rb") as file:
                found = gather(read(file))
        cells = [judge(evidence) for evidence in found]
    except OSError as error:
        return _refuse(f"{options.events} cannot be read: {error.strerror}. Nothing was checked.")
    except HistoryError as error:
        return _refuse(f"{options.events} is not a history that can be judged: {error}. Nothing in it was believed.")
    if options.json:
        sys.stdout.write(json.dumps([vars(cell) for cell in cells], indent=2, allow_nan=False) + "\n")
    else:
        for cell in cells:
            where = " · ".join(name(part) for part in (cell.pattern, cell.fault, cell.point, cell.broker) if part)
            sys.stdout.write(
                f"{where}: {cell.observed} ({counted(cell.tasks, 'task')}, {counted(cell.kills['landed'], 'kill')} injected, "
                f"{cell.lost} lost, {cell.duplicated} duplicated, {cell.unresolved} unresolved)\n"
            )
            sys.stdout.writelines(f"  {reason}\n" for reason in cell.reasons)
    observed = {cell.observed for cell in cells}
    planned = max((evidence.planned_cells for evidence in found), default=0)
    if not cells:
        sys.stderr.write("The history is empty: it proves nothing.\n")
    elif planned > len(cells):
        sys.stderr.write(
            f"The run planned {counted(planned, 'cell')}, and the history holds {len(cells)}: it was cut off, or the run was "
            "interrupted. Nothing is known of the others.\n"
        )
    if "broken" in observed:
        return 1
    return 3 if "unknown" in observed or not cells or planned > len(cells) else 0


def _refuse(sentence: str) -> int:
    sys.stderr.write(sentence + "\n")
    return 2


if __name__ == "__main__":
    gc.disable()  # nothing here makes cycles, and looking for them takes a tenth of the time
    sys.exit(main())
