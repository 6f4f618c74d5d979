"""Faults of connections in a history: the victim goes on, a connection must have been open, and two faults are one event."""

from __future__ import annotations

import pytest

from tests.lab.verdict.histories import Story, expect, judged


def disturbed(fault: str, *, connections: int | None = 1) -> Story:
    """``a`` is at effect_begun when the connections are disturbed, and goes on."""
    story = Story("acks_late", fault).published("a", "b").delivered("a").begun("a")
    story.killed("a", died="", connections=connections)
    story.effect("a").say("effect_done", "a", 20).say("returned", "a", 20)
    return story.ran("b", 20)


@pytest.mark.parametrize("fault", ["cut", "delay", "black-hole", "cut + double-publish"])
def test_fault_of_connections_does_not_contradict_a_victim_that_goes_on(fault: str) -> None:
    result = expect(disturbed(fault).end(), "held")
    assert result.kills == {"planned": 1, "landed": 1}


@pytest.mark.parametrize("fault", ["cut", "delay", "black-hole", "kill-main + cut"])
@pytest.mark.parametrize("connections", [0, None])
def test_fault_of_connections_without_one_was_not_injected(fault: str, connections: int | None) -> None:
    result = judged(disturbed(fault, connections=connections).end())
    assert (result.observed, result.kills["landed"]) == ("unknown", 0)
    assert "no connection was open" in result.reasons[0]


def test_cut_is_reported_while_its_victim_is_at_its_point() -> None:
    story = Story("acks_late", "cut").published("a", "b").begun("a").begun("b").killed("a", connections=1)
    story.ran("a", 30).ran("b", 30)
    assert "no execution of it was open" in judged(story.end()).reasons[0]


@pytest.mark.parametrize("fault", ["delay", "black-hole"])
def test_fault_of_connections_that_lasts_is_reported_when_its_victim_has_gone_on(fault: str) -> None:
    story = Story("acks_late", fault).published("a", "b").ran("a").ran("b").killed("a", connections=2)
    expect(story.end(), "held")


def test_fault_of_connections_that_lasts_is_refuted_if_its_process_did_nothing() -> None:
    story = Story("acks_late", "delay").published("a").ran("a").killed("a", pid=77, connections=2)
    assert "that process has done nothing" in judged(story.end()).reasons[0]


@pytest.mark.parametrize("fault", ["kill-main + cut", "kill-child + black-hole", "kill-main + double-publish"])
def test_victim_of_two_faults_one_of_which_kills_must_not_go_on(fault: str) -> None:
    result = judged(disturbed(fault).end())
    assert (result.observed, result.kills["landed"]) == ("unknown", 0)
    assert "went on to effect_done" in result.reasons[0]


def test_disturbed_publication_needs_no_execution_that_was_open() -> None:
    story = Story("acks_late", "cut-publish").killed("a", died="").published("a", outcome="info").published("a", "b")
    result = expect(story.ran("a").ran("a").ran("b").end(), "held")
    assert (result.kills, result.published, result.duplicated) == ({"planned": 1, "landed": 1}, 2, 1)


def test_fault_of_another_cell_that_is_not_seen_in_it_is_refuted() -> None:
    story = Story("acks_late", "slow").published("a").ran("a").killed("a", what="double-publish")
    assert "it is a double-publish in a cell of slow" in judged(story.end()).reasons[0]
