"""Every change of a history that can be seen is seen: dropped, repeated, forged, moved and cut off, at every place.

Three kinds of damage. As a file is damaged by accident: the numbers stay as they were. By somebody who renumbers. By somebody who
also corrects the counts in the end of the cell; such a history can be a legal one, and then nothing in it can show that it is
not what happened (docs/reference/experiment.md says which events those are).
"""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import pytest

from tasks_demo.core.points import Point
from tasks_demo.lab.verdict.__main__ import main
from tasks_demo.lab.verdict.checker import CellResult, check
from tasks_demo.lab.verdict.history import HistoryError, HistoryEvent, read
from tests.lab.verdict.histories import MAIN, Story, good, healthy, judged, killed, numbered, text

Events = list[HistoryEvent]


def suppressed() -> Story:
    story = Story("dedup_lock", "double-publish").published("a", operation="17").published("b", operation="17")
    story.delivered("a").say("claimed", "a", 20).begun("a", 20).effect("17", task_id="a")
    story.say("effect_done", "a", 20).say("completed", "a", 20).say("returned", "a", 20).say("acked", "a", MAIN)
    story.delivered("b").say("suppressed", "b", 20).say("acked", "b", MAIN)
    return story.killed("a", child_pid=None, main_pid=None, pid=None)


def retried() -> Story:
    story = Story("acks_late").published("a").delivered("a").begun("a", 20, "failed", "retried").published("a")
    return story.say("acked", "a", MAIN).ran("a", 20)


def parked() -> Story:
    story = Story("inbox", "poison").published("a", "b")
    for pid in (20, 21):
        story.delivered("a").begun("a", pid).killed("a", pid)
    return story.delivered("a").say("quarantined", "a", 22).ran("b", 22)


ORIGINALS: dict[str, Callable[[], Events]] = {
    "at most once": lambda: healthy("acks_early").end().events,
    "at least once": lambda: healthy("acks_late").end().events,
    "effectively once": lambda: healthy("dedup_lock").end().events,
    "killed, once": good,
    "killed, lost": lambda: killed("acks_early", again=False).end().events,
    "killed, twice": lambda: killed("acks_late", charged=True).end().events,
    "suppressed": lambda: suppressed().end().events,
    "retried": lambda: retried().end().events,
    "parked": lambda: parked().end().events,
}  # fmt: skip
#: Events without which the history is still legal, so that only the counts in the end of the cell betray the change.
UNNOTICED = {
    "received", "claimed", "effect_begun", "effect_done", "completed", "returned", "failed", "retried", "acked",
    "suppressed", "worker",
}  # fmt: skip

every_history = pytest.mark.parametrize("name", ORIGINALS)


@every_history
def test_originals_are_held(name: str) -> None:
    assert judged(ORIGINALS[name]()).observed == "held"


def verdict(events: Sequence[HistoryEvent]) -> CellResult:
    [result] = check(numbered(events))
    return result


def corrected(events: Sequence[HistoryEvent], kind: str, by: int) -> Events:
    """The events, with the count of this kind in the end of the cell changed by so many."""
    end = events[-1]
    counts = {**end.detail["events"], kind: end.detail["events"].get(kind, 0) + by}
    return [*events[:-1], msgspec.structs.replace(end, detail={**end.detail, "events": counts})]


def as_file(events: Sequence[HistoryEvent]) -> str:
    """The verdict on the file, or "refused"."""
    try:
        return ", ".join(result.observed for result in check(read(io.BytesIO(text(events).encode()))))
    except HistoryError:
        return "refused"


def dropped(events: Events) -> Iterator[tuple[HistoryEvent, Events]]:
    for place, event in enumerate(events):
        yield event, events[:place] + events[place + 1 :]


def repeated(events: Events) -> Iterator[tuple[HistoryEvent, Events]]:
    for place, event in enumerate(events):
        for later in range(place, len(events)):
            yield event, [*events[: later + 1], event, *events[later + 1 :]]


def forged(events: Events) -> Iterator[tuple[HistoryEvent, Events]]:
    """An event of another time, process, job or entry of the books, at every place before the end."""
    for place in range(len(events)):
        for event in events:
            if event.kind != "quiescent":
                for changes in (
                    {"at": events[place].at + 0.5},
                    {"at": events[place].at, "pid": 77},
                    {"task_id": "z", "operation": "z"},
                    {"detail": {**event.detail, "source": "bank:77"}},
                ):
                    yield event, [*events[:place], msgspec.structs.replace(event, **changes), *events[place:]]  # type: ignore[arg-type]


def swapped(events: Events) -> Iterator[tuple[HistoryEvent, HistoryEvent, Events]]:
    for one in range(len(events)):
        for other in range(one + 1, len(events)):
            changed = list(events)
            changed[one], changed[other] = events[other], events[one]
            yield events[one], events[other], changed


@every_history
@pytest.mark.parametrize("mutate", [dropped, repeated, forged])
def test_damaged_file_is_refused(name: str, mutate: Callable[[Events], Iterator[tuple[HistoryEvent, Events]]]) -> None:
    for event, changed in mutate(ORIGINALS[name]()):
        # Without its last line a history is only incomplete.
        assert as_file(changed) == ("unknown" if event.kind == "quiescent" and mutate is dropped else "refused")


@every_history
def test_file_with_two_lines_swapped_is_refused(name: str) -> None:
    for *_, changed in swapped(ORIGINALS[name]()):
        assert as_file(changed) == "refused"


@pytest.mark.parametrize("name", ["killed, once", "suppressed"])
def test_truncated_file_is_refused_or_unknown(name: str) -> None:
    whole = text(ORIGINALS[name]()).encode()
    ends = {place + 1 for place, byte in enumerate(whole) if byte == ord("\n")}
    for place in sorted({*range(1, len(whole), 11), *ends, *(end - 1 for end in ends)} - {len(whole)}):
        try:
            found = [result.observed for result in check(read(io.BytesIO(whole[:place])))]
        except HistoryError:
            assert place not in ends
        else:
            assert (place in ends, found) == (True, ["unknown"])


@pytest.mark.parametrize("cells", [1, 2])
def test_file_truncated_after_a_cell_is_unknown(cells: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stories = [healthy("acks_early").end(cells=2), healthy("acks_late").end(cells=2)]
    path = tmp_path / "events.jsonl"
    path.write_text(text(numbered([event for story in stories[:cells] for event in story.events])), encoding="utf-8")
    assert main([str(path)]) == (3 if cells == 1 else 0)
    assert ("planned 2 cells, and the history holds 1" in capsys.readouterr().err) == (cells == 1)


@every_history
@pytest.mark.parametrize("mutate", [dropped, repeated, forged])
def test_renumbered_history_is_never_held(
    name: str, mutate: Callable[[Events], Iterator[tuple[HistoryEvent, Events]]]
) -> None:
    for event, changed in mutate(ORIGINALS[name]()):
        assert verdict(changed).observed != "held", event


@every_history
def test_renumbered_history_with_two_events_swapped_is_unknown_where_their_order_means_something(name: str) -> None:
    """Two processes write independently of each other: which of their events is written first says nothing."""
    events = ORIGINALS[name]()
    before, seen = judged(events), 0
    for one, other, changed in swapped(events):
        result = verdict(changed)
        one_process = one.pid == other.pid is not None and {one.kind, other.kind} <= set(Point)
        if one_process or other.kind == "quiescent":
            assert result.observed == "unknown", (one, other)
            seen += 1
        elif result.observed == "held":
            assert result.effects == before.effects
            assert result.executions == before.executions
    assert seen > len(events)


@every_history
def test_dropped_event_with_a_corrected_count_changes_no_verdict_unless_the_history_stays_legal(name: str) -> None:
    before = judged(ORIGINALS[name]())
    for event, changed in dropped(ORIGINALS[name]()):
        if event.kind == "quiescent":
            continue
        result = verdict(corrected(changed, event.kind, -1))
        if result.observed != "held":
            continue
        if event.kind in UNNOTICED:
            assert (result.effects, result.executions) == (before.effects, before.executions)
        elif event.kind == "started":
            assert result.effects == before.effects, "a job that began twice, and now once"
        elif event.kind == "effect":
            assert before.promise["effects"][0] == 0 or before.effects["2+"], "a loss or a repetition that is allowed"
        elif event.kind == "published":
            assert name == "retried", "a second publication of the same task ID"
        else:
            assert event.kind == "fault"
            assert 0 < result.kills["landed"] == before.kills["landed"] - 1


@every_history
def test_repeated_event_with_a_corrected_count_is_unknown(name: str) -> None:
    events = ORIGINALS[name]()
    for place, event in enumerate(events[:-1]):
        if event.kind == "worker":
            continue  # says nothing about a job
        repeated_here = [*events[: place + 1], event, *events[place + 1 :]]
        assert verdict(corrected(repeated_here, event.kind, 1)).observed == "unknown", event


def healthy_jobs(jobs: int, seed: int) -> Iterator[HistoryEvent]:
    """Jobs on four pool processes of two workers, as they interleave; one in ten is retried, one in ten delivered twice."""
    chance, cell = random.Random(seed), ("dedup_lock", "none", "", "redis")
    counts: dict[str, int] = {}
    number, at = 0, 1_700_000_000.0

    def said(kind: str, task_id: str, pid: int | None = None, **detail: object) -> HistoryEvent:
        nonlocal number, at
        number, at = number + 1, at + chance.random() / 1000
        counts[kind] = counts.get(kind, 0) + 1
        return HistoryEvent(number, at, *cell, kind, task_id, task_id, "w" if pid else "", pid, detail)

    def life(job: int, pid: int) -> Iterator[HistoryEvent]:
        task_id, main = f"job {job}", pid // 10
        yield said("published", task_id, outcome="ok")
        yield said("received", task_id, main)
        if job % 10 == 1:
            for kind in ("claimed", "started", "effect_begun", "failed", "retried"):
                yield said(kind, task_id, pid)
            yield said("published", task_id, pid, outcome="ok")
            yield said("acked", task_id, main)
            yield said("received", task_id, main)
        for kind in ("claimed", "started", "effect_begun"):
            yield said(kind, task_id, pid)
        yield said("effect", task_id, source=f"bank:{job + 1}")
        for kind in ("effect_done", "completed", "returned"):
            yield said(kind, task_id, pid)
        yield said("acked", task_id, main)
        if job % 10 == 2:
            yield said("received", task_id, main, redelivered=True)
            yield said("suppressed", task_id, pid)
            yield said("acked", task_id, main)

    waiting = iter(range(jobs))
    running = {pid: life(next(waiting), pid) for pid in (201, 202, 301, 302)}
    pids = list(running)
    while running:
        pid = chance.choice(pids)
        event = next(running[pid], None)
        if event is not None:
            yield event
        elif (job := next(waiting, None)) is not None:
            running[pid] = life(job, pid)
        else:
            del running[pid]
            pids.remove(pid)
    end = Story().end().events[0].detail | {"tasks": jobs, "events": counts}
    yield HistoryEvent(number + 1, at, *cell, "quiescent", "", "", "", None, end)


@pytest.mark.parametrize("seed", range(4))
def test_healthy_jobs_raise_no_alarm(seed: int) -> None:
    """Invented ones, as they interleave. The lab's own healthy cells are in docs/results.md."""
    [result] = check(healthy_jobs(2_500, seed))
    assert (result.observed, result.reasons) == ("held", [])
    assert result.effects == {"0": 0, "1": 2_500, "2+": 0}
    assert result.recovered == 500
