"""The faults, and what each does to which process. ``nemesis`` and ``unaimed_faults`` inject them."""

from __future__ import annotations

import signal
from enum import StrEnum

_LOST_ANSWER = "the {0} reaches {1}, and the connection is closed instead of its answer"
_SWALLOWED = "the {0} is swallowed, and the connection is reset after 2 s"


class Fault(StrEnum):
    """What is injected at each planned victim."""

    NONE = "none"
    KILL_CHILD = "kill-child"
    KILL_MAIN = "kill-main"
    KILL_GROUP = "kill-group"
    TERM = "term"
    QUIT = "quit"
    STOP = "stop"
    SLOW = "slow"
    POISON = "poison"
    LOST_RESPONSE = "lost-response"
    DOUBLE_PUBLISH = "double-publish"
    PUBLISHER_CRASH = "publisher-crash"
    HOSTILE = "hostile"
    BROKER_KILL = "broker-kill"
    BROKER_KILL_ALWAYS = "broker-kill-always"
    BROKER_KILL_EVERYSEC = "broker-kill-everysec"
    BROKER_KILL_OFF = "broker-kill-off"
    BROKER_FLUSH = "broker-flush"
    BROKER_FULL = "broker-full"
    BROKER_READ_ONLY = "broker-read-only"
    BROKER_DISK_FULL = "broker-disk-full"
    DATABASE_KILL = "database-kill"
    CUT = "cut"
    DELAY = "delay"
    BLACK_HOLE = "black-hole"
    CUT_PUBLISH = "cut-publish"
    DELAY_PUBLISH = "delay-publish"
    BLACK_HOLE_PUBLISH = "black-hole-publish"
    CUT_COMMIT = "cut-commit"
    DELAY_COMMIT = "delay-commit"
    BLACK_HOLE_COMMIT = "black-hole-commit"
    CUT_CLAIM = "cut-claim"
    DELAY_CLAIM = "delay-claim"
    BLACK_HOLE_CLAIM = "black-hole-claim"
    OUT_OF_MEMORY = "out-of-memory"
    CLOCK_JUMP = "clock-jump"
    LOAD = "load"

    @property
    def victim(self) -> str:
        """What is hit: "", the process "child", "main", "group" or "publisher" by a signal, the "connection"s or the "clock" of a
        worker."""
        return {
            Fault.KILL_CHILD: "child",
            Fault.STOP: "child",
            Fault.OUT_OF_MEMORY: "child",
            Fault.POISON: "child",
            Fault.KILL_MAIN: "main",
            Fault.TERM: "main",
            Fault.QUIT: "main",
            Fault.KILL_GROUP: "group",
            Fault.PUBLISHER_CRASH: "publisher",
            Fault.CUT: "connection",
            Fault.DELAY: "connection",
            Fault.BLACK_HOLE: "connection",
            Fault.CLOCK_JUMP: "clock",
        }.get(self, "")

    @property
    def signal(self) -> signal.Signals | None:
        """The signal that is sent; None for a fault that sends none."""
        if self.victim in {"", "connection", "clock"} or self is Fault.OUT_OF_MEMORY:
            return None
        return {
            Fault.TERM: signal.SIGTERM,
            Fault.QUIT: signal.SIGQUIT,
            Fault.STOP: signal.SIGSTOP,
        }.get(self, signal.SIGKILL)

    @property
    def appendonly(self) -> str:
        """For a fault that kills the broker: how often Redis writes its append-only file out; "" for all others."""
        return self.removeprefix("broker-kill-") if self.startswith("broker-kill-") else ""

    @property
    def of_broker(self) -> bool:
        """Whether it happens to the broker, once in a cell, and to no process of a worker."""
        return self.startswith("broker-")

    @property
    def of_connection(self) -> bool:
        """Whether it happens to the connections between a worker and its broker, and to no process."""
        return self.victim == "connection"

    @property
    def disturbed_request(self) -> str:
        """The request whose connection is disturbed: "publish", "commit" or "claim"; "" if it is the worker's connection to the
        broker, or none."""
        what, _, request = self.rpartition("-")
        return request if what in {Fault.CUT, Fault.DELAY, Fault.BLACK_HOLE} else ""

    @property
    def disturbance(self) -> Fault:
        """What happens to a connection, at whatever request: CUT, DELAY or BLACK_HOLE; NONE for all other faults."""
        if self.of_connection:
            return self
        return Fault(self.removesuffix(f"-{self.disturbed_request}")) if self.disturbed_request else Fault.NONE

    @property
    def outage(self) -> bool:
        """Whether the broker is in trouble for a while, as jobs run, and then goes on with all its data."""
        return self in {Fault.BROKER_FULL, Fault.BROKER_READ_ONLY, Fault.BROKER_DISK_FULL}

    @property
    def once_per_cell(self) -> bool:
        """Whether it is injected once in a cell, and not at a particular job."""
        return self.of_broker or self is Fault.DATABASE_KILL

    @property
    def among_queued(self) -> bool:
        """Whether it is injected once, when jobs are queued: the first job is held until then; otherwise a fast worker could
        finish all of them first."""
        return self.once_per_cell and not self.among_jobs

    @property
    def among_jobs(self) -> bool:
        """Whether it is injected once, when a job runs and others are queued."""
        return self.outage or self in {Fault.BROKER_KILL, Fault.DATABASE_KILL}

    @property
    def aimable(self) -> bool:
        """Whether it can be injected at a chosen point of a task's life."""
        return self.victim in {"child", "main", "group", "connection", "clock"}

    @property
    def description(self) -> str:
        """One line of explanation."""
        return {
            Fault.NONE: "nothing is done (the healthy control)",
            Fault.KILL_CHILD: "SIGKILL to the pool process that runs the job, as the OOM killer does",
            Fault.KILL_MAIN: "SIGKILL to the worker's main process; its pool processes die with it",
            Fault.KILL_GROUP: "SIGKILL to the whole process group, as a container runtime does",
            Fault.TERM: "SIGTERM: a warm shutdown, running jobs may finish",
            Fault.QUIT: "SIGQUIT: a cold shutdown, running jobs are terminated",
            Fault.STOP: "SIGSTOP to the pool process for longer than lease and visibility timeout, then SIGCONT",
            Fault.SLOW: "the job works for longer than the visibility timeout",
            Fault.POISON: "the job's pool process is killed at every attempt",
            Fault.LOST_RESPONSE: "the bank books the debit and resets the connection",
            Fault.DOUBLE_PUBLISH: "a double click: two task IDs for one operation",
            Fault.PUBLISHER_CRASH: "the publisher is killed between its commit and its publication",
            Fault.HOSTILE: "a message that no publisher sends is put before the job: garbage, 50 MB, an unknown task and so on",
            Fault.BROKER_KILL: "SIGKILL to the cell's RabbitMQ node while jobs run and are queued, and a restart",
            Fault.BROKER_KILL_ALWAYS: "SIGKILL to the cell's Redis while jobs are queued, and a restart; appendfsync always",
            Fault.BROKER_KILL_EVERYSEC: "the same with appendfsync everysec",
            Fault.BROKER_KILL_OFF: "the same without append-only file: the queued messages are lost",
            Fault.BROKER_FLUSH: "FLUSHALL on the cell's Redis while jobs are queued",
            Fault.BROKER_FULL: "the cell's Redis has no memory left for some seconds while jobs run: it refuses what needs more",
            Fault.BROKER_READ_ONLY: "the cell's Redis is a replica for some seconds while jobs run, as in a failover",
            Fault.BROKER_DISK_FULL: "the cell's Redis can add nothing to its append-only file for some seconds while jobs run",
            Fault.DATABASE_KILL: "SIGKILL to the PostgreSQL server of the jobs' tables while jobs run, and a restart 2 s later",
            Fault.CUT: "the worker's connections to the broker are closed; it may open new ones at once",
            Fault.DELAY: "what the worker and the broker send arrives 2 s later, each way, for 7 s",
            Fault.BLACK_HOLE: "the worker's connections to the broker stay open for 2 s and nothing passes; then they are reset",
            Fault.CUT_PUBLISH: f"{_LOST_ANSWER.format('publication', 'the broker')}; the publisher publishes again",
            Fault.DELAY_PUBLISH: "a publication and its confirmation arrive 2 s later each",
            Fault.BLACK_HOLE_PUBLISH: f"{_SWALLOWED.format('publication')}; the publisher publishes again",
            Fault.CUT_COMMIT: _LOST_ANSWER.format("commit of the effect", "the database"),
            Fault.DELAY_COMMIT: "the commit of the effect and its answer arrive 2 s later each",
            Fault.BLACK_HOLE_COMMIT: _SWALLOWED.format("commit of the effect"),
            Fault.CUT_CLAIM: _LOST_ANSWER.format("claim of an operation", "Redis or the database"),
            Fault.DELAY_CLAIM: "the claim of an operation and its answer arrive 2 s later each",
            Fault.BLACK_HOLE_CLAIM: _SWALLOWED.format("claim of an operation"),
            Fault.OUT_OF_MEMORY: "the pool process gets no more memory (RLIMIT_AS) at its next call: MemoryError",
            Fault.CLOCK_JUMP: "the worker's wall clock jumps two hours forward, and back 4 s later",
            Fault.LOAD: "SIGKILL to a worker's main process at random moments, while jobs flow and another worker lives",
        }[self]
