"""Literal histories, built step by step, for the tests of the verdict."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec

from tasks_demo.lab.verdict.checker import CellResult, check
from tasks_demo.lab.verdict.history import HistoryEvent, write

MAIN = 10


class Story:
    """The history of one cell. Each step takes a second; ``end`` closes it with the runner's own evidence."""

    def __init__(self, pattern: str = "acks_late", fault: str = "none", point: str = "", broker: str = "redis") -> None:
        self.cell = {"pattern": pattern, "fault": fault, "point": point, "broker": broker}
        self.events: list[HistoryEvent] = []
        self.debits = 0

    def say(self, kind: str, task_id: str = "", pid: int | None = None, **fields: Any) -> Story:
        detail = fields.pop("detail", {})
        operation = fields.pop("operation", task_id)
        number = len(self.events) + 1
        event = HistoryEvent(
            seq=number,
            at=fields.pop("at", 1_700_000_000.0 + number),
            kind=kind,
            task_id=task_id,
            operation=operation,
            worker="w1" if pid else "",
            pid=pid,
            detail=detail,
            **self.cell,
            **fields,
        )
        self.events.append(event)
        return self

    def published(self, *task_ids: str, outcome: str = "ok", operation: str | None = None) -> Story:
        for task_id in task_ids:
            self.say("published", task_id, operation=operation or task_id, detail={"outcome": outcome})
        return self

    def effect(self, operation: str, *, task_id: str | None = None, source: str | None = None) -> Story:
        self.debits += 1
        detail = {"source": source or f"bank:{self.debits}", "amount": 1999}
        return self.say("effect", operation if task_id is None else task_id, operation=operation, detail=detail)

    def begun(self, task_id: str, pid: int = 20, *more: str) -> Story:
        for kind in ("started", "effect_begun", *more):
            self.say(kind, task_id, pid)
        return self

    def delivered(self, task_id: str) -> Story:
        return self.say("received", task_id, MAIN)

    def ran(self, task_id: str, pid: int = 20, *, charged: bool = True) -> Story:
        """One whole delivery."""
        self.delivered(task_id).begun(task_id, pid)
        if charged:
            self.effect(task_id).say("effect_done", task_id, pid)
        return self.say("returned", task_id, pid).say("acked", task_id, MAIN)

    def killed(self, task_id: str, pid: int = 20, *, point: str = "effect_begun", **changes: Any) -> Story:
        what = self.cell["fault"]
        detail = {
            "what": what,
            "victim": what.removeprefix("kill-"),
            "pid": pid if what in {"kill-child", "poison", "stop"} else MAIN,
            "main_pid": MAIN,
            "child_pid": pid,
            "point": point,
            "landed": True,
            "why": "",
            "died": "SIGKILL",
        }
        return self.say("fault", task_id, detail=detail | changes)

    def end(self, **changes: Any) -> Story:
        kinds = Counter(event.kind for event in self.events)
        detail = {
            "queued": 0,
            "unacked": 0,
            "outbox": 0,
            "running": 0,
            "workers": 0,
            "deferred": 0,
            "books_read": True,
            "published": kinds["published"],
            "planned_kills": kinds["fault"],
            "events": dict(kinds),
            "reason": "",
            "duration_s": 2.5,
            "seed": 7,
            "tasks": len({event.task_id for event in self.events if event.kind == "published"}),
        }
        return self.say("quiescent", detail=detail | changes)


def numbered(events: Sequence[HistoryEvent]) -> list[HistoryEvent]:
    """The events renumbered contiguously, as a forger would do it."""
    return [msgspec.structs.replace(event, seq=number) for number, event in enumerate(events, 1)]


def text(events: Sequence[HistoryEvent]) -> str:
    """The history as file text."""
    file = io.BytesIO()
    write(events, file)
    return file.getvalue().decode()


def line(**changes: Any) -> str:
    """One line of a file, with some of its fields changed; a value of ``...`` leaves the field out."""
    fields: dict[str, Any] = json.loads(text([Story().published("a").events[0]]))
    fields.update(changes)
    return json.dumps({name: value for name, value in fields.items() if value is not ...}) + "\n"


def judged(events: Story | Sequence[HistoryEvent]) -> CellResult:
    [result] = check(events.events if isinstance(events, Story) else events)
    return result


def expect(story: Story | Sequence[HistoryEvent], observed: str, *reasons: str) -> CellResult:
    """Assert the verdict and, in this order, the subjects of its reasons; a verdict of held has no reasons."""
    result = judged(story)
    assert (result.observed, len(result.reasons)) == (observed, len(reasons)), result.reasons
    for found, part in zip(result.reasons, reasons, strict=True):
        assert part in found
    return result


def healthy(pattern: str = "acks_late") -> Story:
    return Story(pattern).published("a", "b").ran("a").ran("b")


def killed(pattern: str, fault: str = "kill-main", *, charged: bool = False, again: bool = True) -> Story:
    """``a`` is killed in its body, before or after its charge; ``b`` succeeds. The history is still open."""
    story = Story(pattern, fault).published("a", "b").delivered("a").begun("a")
    if charged:
        story.effect("a").say("effect_done", "a", 20)
    story.killed("a", point="effect_done" if charged else "effect_begun")
    if again:
        story.ran("a", 30)
    return story.ran("b", 30)


def good() -> list[HistoryEvent]:
    """A complete history with a kill and the verdict held."""
    story = killed("dedup_lock").say("worker", pid=MAIN, detail={"state": "exited", "pid": MAIN, "exit": 0})
    return story.end().events
