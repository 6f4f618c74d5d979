"""What counts as a lost message and which copy may run: literal cases. Waiting is not loss."""

from __future__ import annotations

import pytest

from tasks_demo.outbox.evidence import (
    OPEN,
    Evidence,
    Life,
    Location,
    RowState,
    is_alive,
    lost,
    must_ask_workers,
    next_look,
    refusal,
)

HOUR, DAY = 3600.0, 86400.0


def waits(age: float = HOUR, publications: int = 1, **known: object) -> Evidence:
    return Evidence(age, publications, **{"overtaken": False, **known})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("evidence", "is_lost"),
    [
        # A long or a paused queue: never lost at any age if the broker can tell.
        (waits(broker=Location.QUEUED), False),
        (waits(7 * DAY, broker=Location.QUEUED), False),
        (waits(7 * DAY, broker=Location.QUEUED, overtaken=True), False),
        # If the broker cannot tell: only the fallback applies.
        (waits(), False),
        (waits(DAY - 1), False),
        (waits(DAY), True),
        (waits(DAY, publications=2), False),
        (waits(2 * DAY, publications=2), True),
        # The broker no longer has it. Acknowledged early and about to begin, it is held by a worker alone.
        (waits(1, broker=Location.ABSENT), True),
        (waits(1, broker=Location.ABSENT, workers=False), True),
        (waits(1, broker=Location.ABSENT, workers=True), False),
        # Handed to a worker: a living, busy worker holds it. If no worker was asked, there is no evidence.
        (waits(broker=Location.UNACKED, overtaken=True, workers=True), False),
        (waits(broker=Location.UNACKED, overtaken=True, workers=False), True),
        (waits(broker=Location.UNACKED, overtaken=True), False),
        (waits(broker=Location.UNACKED), False),
        (waits(broker=Location.UNACKED, idle=True, workers=False), True),
        # Held by the reliable transport, or set aside by it: it comes back when its holder dies, or when a person says so.
        (waits(7 * DAY, broker=Location.KEPT, overtaken=True, idle=True, begun=True, workers=False), False),
        # RabbitMQ: prefetch causes a little overtaking.
        (waits(overtaken=True, workers=True), False),
        (waits(overtaken=True, workers=False), True),
        (waits(overtaken=True), False),
        (waits(idle=True, workers=False), True),
        # Begun by a worker that died: its broker may have redelivered it already.
        (waits(begun=True, broker=Location.QUEUED), False),
        (waits(begun=True, broker=Location.UNACKED, workers=True), False),
        (waits(begun=True, broker=Location.UNACKED, workers=False), True),
        (waits(begun=True, broker=Location.ABSENT), True),
        (waits(begun=True), True),
        # A queue that is not empty, and nothing later has ended: the workers are not even asked.
        (waits(workers=False), False),
    ],
)  # fmt: skip
def test_copy_counts_as_lost_only_on_evidence(evidence: Evidence, is_lost: bool) -> None:
    assert lost(evidence, fallback=DAY) is is_lost


def test_workers_are_asked_only_where_their_answer_decides() -> None:
    asked = [
        waits(overtaken=True),
        waits(idle=True),
        waits(broker=Location.UNACKED, overtaken=True),
        waits(broker=Location.ABSENT),
    ]
    not_asked = [
        waits(),
        waits(broker=Location.UNACKED),
        waits(broker=Location.QUEUED, overtaken=True),
        waits(broker=Location.KEPT, overtaken=True, begun=True),
    ]
    assert [must_ask_workers(each) for each in asked + not_asked] == [True] * 4 + [False] * 4


@pytest.mark.parametrize(
    ("state", "generation", "alive", "runs"),
    [
        (RowState(False, "", OPEN), 0, False, True),
        # Begun by a living worker; by a dead one.
        (RowState(False, "w", 0), 0, True, False),
        (RowState(False, "w", 0), 0, False, True),
        # A retry or deferral may begin before the body that published it is marked.
        (RowState(False, "w", 0), 1, True, True),
        (RowState(False, "", 0), 1, False, True),
        # A second copy of the first must not start a second chain of retries; neither may an older copy from a later chain.
        (RowState(False, "", 0), 0, False, False),
        (RowState(False, "", 2), 1, False, False),
        (RowState(False, "w", 2), 1, True, False),
        # Ended; revoked or expired before it began; a retry(throw=False), after which the body returned.
        (RowState(True, "w", 0), 0, False, False),
        (RowState(True, "", OPEN), 0, False, False),
        (RowState(True, "", OPEN), 1, False, False),
        (RowState(True, "w", 0), 1, False, True),
    ],
)
def test_copy_runs_unless_its_job_has_ended_is_running_or_goes_on_elsewhere(
    state: RowState, generation: int, alive: bool, runs: bool
) -> None:
    assert (refusal(state, generation, alive) == "") is runs


@pytest.mark.parametrize(
    ("life", "silent", "alive"),
    [
        (Life.GONE, 0, False),
        (Life.HERE, 59, True),
        (Life.HERE, 61, True),  # suspended, or in C code: the process is visible
        (Life.HERE, 7201, False),
        (Life.UNKNOWN, 59, True),
        (Life.UNKNOWN, 61, False),
    ],
)
def test_holder_counts_as_alive_by_its_process_or_its_reports(life: Life, silent: float, alive: bool) -> None:
    assert is_alive(life, silent, lease=60, unfinished=7200) is alive


def test_looks_become_rarer_with_age_and_publications_within_bounds() -> None:
    assert [next_look(age, 1, 60) for age in (0, 60, 600, HOUR, DAY)] == [60, 60, 300, 600, 600]
    assert [next_look(0, publications, 60) for publications in (0, 1, 3, 4, 5)] == [60, 60, 60, 120, 240]
    assert next_look(0, 10**6, 60) == 60 * 2**10
