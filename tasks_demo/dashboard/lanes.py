"""Sorts the moments of one job's history into lanes, and derives the bars: executions, waiting messages, claims. Pure.

Lanes: publisher, broker, each worker's main process and its pool processes, the claim on the operation, the books. What the
broker does is inferred from the points of the workers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tasks_demo.core.points import BY_MAIN
from tasks_demo.core.wording import shown

#: Maximum number of workers that are drawn, two lanes each.
MOST_WORKERS = 6
_ENDS = frozenset({"returned", "failed", "retried", "replaced", "ignored", "rejected", "revoked", "deferred"})
_ENDS_CLAIM = frozenset({"completed", "returned", "failed", "retried", "lease_lost"})
_TROUBLE = frozenset({"failed", "lease_lost", "fenced", "rejected", "revoked", "expired", "quarantined"})


@dataclass(frozen=True, slots=True)
class Moment:
    """One event. ``victim`` of a fault that was injected: "main", "child" or "group"; ``redelivered``: of a delivery.

    ``note`` is shown as the title of its mark.
    """

    after_ms: float
    kind: str
    worker: str = ""
    pid: int | None = None
    note: str = ""
    redelivered: bool = False
    injected: bool = False
    victim: str = ""
    point: str = ""
    main_pid: int | None = None
    child_pid: int | None = None


@dataclass(slots=True)
class Bar:
    """A length of time on a lane. ``state``: "done", "killed" (a fault ended it) or "open" (its end is not on record)."""

    tone: str  # "waiting", "unacked", "execution", "claim"
    text: str
    begins: float
    ends: float | None = None
    state: str = "open"
    pid: int | None = None
    x: float = 0.0
    y: float = 0.0
    width: float = 0.0


@dataclass(slots=True)
class Mark:
    """A moment on a lane, with its text."""

    moment: Moment
    text: str
    tone: str  # "", "effect", "fault", "trouble"
    note: str
    x: float = 0.0
    y: float = 0.0
    text_x: float = 0.0
    text_y: float = 0.0
    anchor: str = "start"


@dataclass(slots=True)
class Lane:
    """One lane. ``title`` is cut to its room; ``whole`` is not. ``dead``: x and width where no process of it lived."""

    title: str
    whole: str
    under: str = ""
    y: float = 0.0
    height: float = 0.0
    bars: list[Bar] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    dead: list[tuple[float, float]] = field(default_factory=list)

    @property
    def middle(self) -> float:
        """The y of its bars and marks."""
        return self.y + 15


Key = tuple[str, str]
_PUBLISHER, _BROKER, _CLAIM, _BOOKS = ("publisher", ""), ("broker", ""), ("claim", ""), ("books", "")
_UNDER = {"publisher": "", "broker": "as the points tell", "claim": "who holds it", "books": "of the receiver"}


class Lanes:
    """Sorts moments into lanes, and derives the bars."""

    def __init__(self, moments: Sequence[Moment]) -> None:
        self.by_key: dict[Key, Lane] = {}
        self.left_out = 0
        self.kills: list[tuple[list[Key], float]] = []
        self.times: list[tuple[Key, float]] = []
        self.worker_of = {moment.pid: moment.worker for moment in moments if moment.worker and moment.pid is not None}
        self.mains = {moment.pid for moment in moments if moment.kind in BY_MAIN} | {
            moment.main_pid for moment in moments if moment.main_pid is not None
        }
        for moment in moments:
            self._take(moment)
        self._close_open_bars()

    def shown(self) -> list[Lane]:
        """The lanes in order, from publisher to books."""
        order = {"publisher": 0, "broker": 1, "main": 2, "child": 2, "claim": 3, "books": 4}
        return [lane for _, lane in sorted(self.by_key.items(), key=lambda each: order[each[0][0]])]

    def dead_times(self) -> list[tuple[Key, float, float | None]]:
        """For each lane that a kill hit: since when, and until its next sign of life."""
        return [
            (key, at, next((later for other, later in self.times if other == key and later > at), None))
            for keys, at in self.kills
            for key in keys
            if key in self.by_key
        ]

    def _lane(self, key: Key) -> Lane | None:
        if key not in self.by_key:
            role, worker = key
            if role in {"main", "child"}:
                if (
                    worker not in {name for _, name in self.by_key}
                    and len({n for _, n in self.by_key if n}) >= MOST_WORKERS
                ):
                    self.left_out += 1
                    return None
                # Both lanes of a worker, so that a kill of main can be drawn across them.
                for each, title in (("main", "main process"), ("child", "pool process")):
                    self.by_key[each, worker] = Lane(_cut(worker or "unknown worker"), shown(worker, 300), title)
            else:
                title = {"claim": "operation", "books": "books"}.get(role, role)
                self.by_key[key] = Lane(title, title, _UNDER[role])
        return self.by_key[key]

    def _key(self, moment: Moment) -> Key:
        if moment.kind == "published":
            return _PUBLISHER
        if moment.kind in {"effect", "settled"}:
            return _BOOKS
        pids = (moment.pid, moment.child_pid, moment.main_pid)
        worker = moment.worker or next((self.worker_of[pid] for pid in pids if pid in self.worker_of), "")
        if moment.kind == "fault":
            return ("child" if moment.victim == "child" else "main"), worker
        return ("main" if moment.kind in BY_MAIN or (moment.pid in self.mains and moment.pid) else "child"), worker

    def _take(self, moment: Moment) -> None:
        key = self._key(moment)
        lane = self._lane(key)
        if lane is None:
            return
        lane.marks.append(Mark(moment, _text(moment), _tone(moment), shown(moment.note, 200)))
        self.times.append((key, moment.after_ms))
        self._broker(moment)
        worker = key[1]
        if moment.kind == "started":
            lane.bars.append(Bar("execution", "execution", moment.after_ms, pid=moment.pid))
        elif moment.kind in _ENDS and ("child", worker) in self.by_key:
            own_end = self.by_key["child", worker].bars + lane.bars
            _close(own_end, moment.after_ms, "done", None if key[0] == "main" else moment.pid)
        if moment.kind == "claimed" and (claims := self._lane(_CLAIM)):
            _close(claims.bars, moment.after_ms, "taken over")
            claims.bars.append(Bar("claim", f"held by {shown(worker, 60)}", moment.after_ms, pid=moment.pid))
        elif moment.kind in _ENDS_CLAIM and _CLAIM in self.by_key:
            _close(self.by_key[_CLAIM].bars, moment.after_ms, "done", moment.pid)
        if moment.kind == "fault" and moment.injected and moment.victim in {"main", "child", "group"}:
            hit: list[Key] = [("child", worker)] if moment.victim == "child" else [("main", worker), ("child", worker)]
            self.kills.append((hit, moment.after_ms))
            for each in hit:
                _close(self.by_key[each].bars, moment.after_ms, "killed", every=True)

    def _broker(self, moment: Moment) -> None:
        """What the broker has: a waiting message, or one that is delivered and not acknowledged."""
        if moment.kind not in {"published", "fetched", "received", "acked"}:
            return
        lane = self._lane(_BROKER)
        assert lane is not None  # noqa: S101  (only workers' lanes are left out)
        waiting = [bar for bar in lane.bars if bar.tone == "waiting"]
        unacked = [bar for bar in lane.bars if bar.tone == "unacked"]
        if moment.kind == "published":
            lane.bars.append(Bar("waiting", "waits in the queue", moment.after_ms))
        elif moment.kind == "acked":
            _close(unacked, moment.after_ms, "done", moment.pid) or _close(unacked, moment.after_ms, "done")
        elif moment.kind == "fetched":  # popped: the broker has it nowhere until the worker has recorded it
            _close(waiting, moment.after_ms, "done")
        else:
            _close(waiting, moment.after_ms, "done")
            if moment.redelivered:
                _close(unacked, moment.after_ms, "done")
            lane.bars.append(Bar("unacked", "delivered, not acknowledged", moment.after_ms, pid=moment.pid))

    def _close_open_bars(self) -> None:
        """An open bar on a worker's lane lasts at most until the next bar there."""
        for (role, _), lane in self.by_key.items():
            if role in {"main", "child"}:
                for bar, later in zip(lane.bars, lane.bars[1:], strict=False):
                    if bar.ends is None:
                        bar.ends = later.begins


def _close(bars: list[Bar], at: float, state: str, pid: int | None = None, *, every: bool = False) -> bool:
    """End the earliest open bar, of this process if ``pid`` is given. Returns whether there was one."""
    found = [bar for bar in bars if bar.ends is None and pid in (None, bar.pid)]
    for bar in found if every else found[:1]:
        bar.ends, bar.state = at, state
    return bool(found)


def _text(moment: Moment) -> str:
    if moment.kind == "fault":
        return f"{'killed' if moment.injected else 'missed'} at {shown(moment.point, 30)}"
    if moment.kind == "received" and moment.redelivered:
        return "received again"
    return {"settled": "books read"}.get(moment.kind) or _cut(moment.kind)


def _tone(moment: Moment) -> str:
    if moment.kind == "fault":
        return "fault" if moment.injected else ""
    return "effect" if moment.kind == "effect" else "trouble" if moment.kind in _TROUBLE else ""


def _cut(text: str) -> str:
    line = shown(text, 300)
    return line if len(line) <= 20 else f"{line[:19]}…"
