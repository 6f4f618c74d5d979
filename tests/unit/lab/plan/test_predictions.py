"""The prediction table is complete, gives reasons, and agrees with the promises."""

from __future__ import annotations

import pytest

from tasks_demo.core.semantics import PROMISES
from tasks_demo.lab.plan.brokers import KINDS
from tasks_demo.lab.plan.cells import applies, points_of
from tasks_demo.lab.plan.faults import Fault
from tasks_demo.lab.plan.outcomes import LOST, Prediction
from tasks_demo.lab.plan.predictions import PREDICTIONS, prediction

FAULTS = [str(fault) for fault in Fault]


def allowed(pattern: str) -> set[str]:
    promise = PROMISES[pattern]
    return {what for what, count in (("lost", 0), ("duplicated", 2)) if count in promise.effects}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("pattern", list(PROMISES))
def test_prediction_of_every_cell_agrees_with_its_promise(pattern: str, fault: str) -> None:
    if not applies(pattern, Fault(fault)):
        assert (pattern, fault) not in PREDICTIONS
        return
    predicted = PREDICTIONS[pattern, fault]
    assert len(predicted.why) > 20
    assert predicted.why.endswith(".")
    if predicted.outcome == "open":
        return  # chance decides
    # Whatever the promise forbids is either predicted never to happen, or predicted to happen and break the promise.
    assert {"lost", "duplicated"} - allowed(pattern) <= predicted.excluded | predicted.required
    assert (predicted.outcome == "broken") == bool(predicted.required - allowed(pattern))


@pytest.mark.parametrize("fault", ["kill-child", "kill-main", "kill-group"])
def test_kill_must_show_what_each_configuration_does(fault: str) -> None:
    for patterns, visible in (
        (("acks_early", "claim_first"), {"lost"}),
        (("acks_late", "outbox"), {"duplicated"}),
        (("dedup_lock", "inbox"), set()),
    ):
        assert {PREDICTIONS[pattern, fault].required for pattern in patterns} == {frozenset(visible)}


@pytest.mark.parametrize("pattern", list(PROMISES))
def test_healthy_run_shows_nothing(pattern: str) -> None:
    assert PREDICTIONS[pattern, "none"].excluded == {"lost", "duplicated"}


def test_prediction_of_several_clicks_is_several_effects_unless_something_compares_them() -> None:
    for pattern in ("acks_early", "acks_late", "outbox"):
        assert prediction(pattern, "kill-main", clicks=2).required == {"duplicated"}
    for pattern in ("claim_first", "dedup_lock", "inbox"):
        assert prediction(pattern, "kill-main", clicks=2) == prediction(pattern, "kill-main")


@pytest.mark.parametrize("pattern", list(PROMISES))
@pytest.mark.parametrize("fault", ["kill-child", "kill-main"])
def test_faults_at_all_points_show_what_the_single_points_show(pattern: str, fault: str) -> None:
    singles = [prediction(pattern, fault, str(point)) for point in points_of(pattern, Fault(fault))]
    mixed = prediction(pattern, fault, "mixed")
    assert mixed.required == frozenset().union(*(single.required for single in singles))
    assert mixed.outcome == ("broken" if "broken" in {single.outcome for single in singles} else "held")


@pytest.mark.parametrize("fault", [str(fault) for fault in Fault if fault.of_connection])
def test_disturbed_connection_costs_nothing_on_the_reliable_transport_and_a_delay_nowhere(fault: str) -> None:
    for pattern in PROMISES:
        for point in ("", "mixed", *points_of(pattern, Fault(fault))):
            for broker in KINDS:
                found = prediction(pattern, fault, point, broker=broker)
                assert not found.required or (fault != "delay" and broker != "reliable"), (pattern, point, broker)
                assert found.outcome == "held" or pattern in {"acks_early", "claim_first", "acks_late"}
        if pattern not in {"dedup_lock", "inbox"}:
            assert prediction(pattern, fault, broker="reliable").excluded == {"lost", "duplicated"}


@pytest.mark.parametrize("pattern", list(PROMISES))
def test_disturbed_publication_never_loses_a_job_and_doubles_it_only_where_nothing_compares_messages(
    pattern: str,
) -> None:
    for fault in (fault for fault in Fault if fault.disturbed_request == "publish"):
        for broker in KINDS:
            found = prediction(pattern, fault, broker=broker)
            assert "lost" in found.excluded
            doubled = fault is Fault.CUT_PUBLISH and pattern in {"acks_early", "acks_late"}
            assert found.required == ({"duplicated"} if doubled else set())


def test_disturbed_commit_has_one_effect() -> None:
    for fault in (fault for fault in Fault if fault.disturbed_request == "commit"):
        found = prediction("inbox", fault)
        assert (found.outcome, found.excluded) == ("held", {"lost", "duplicated"})


def test_claim_without_an_answer_costs_claim_first_its_job_and_nothing_else() -> None:
    for pattern in ("claim_first", "outbox", "dedup_lock"):
        for fault in (fault for fault in Fault if fault.disturbed_request == "claim"):
            found = prediction(pattern, fault)
            lost = (pattern, fault) == ("claim_first", Fault.CUT_CLAIM)
            assert (found.outcome, found.required) == ("held", {"lost"} if lost else set())
            assert found.excluded == {"lost", "duplicated"} - found.required


def test_black_hole_where_a_message_is_recorded_loses_it_on_stock_redis() -> None:
    for pattern, outcome in (("acks_early", "open"), ("claim_first", "open"), ("acks_late", "broken")):
        found = prediction(pattern, "black-hole", "fetched")
        assert (found.outcome, found.required) == (outcome, {"lost"})
        assert "lost" not in prediction(pattern, "black-hole", "fetched", broker="rabbitmq-quorum").required
    assert "lost" in prediction("outbox", "black-hole", "fetched").excluded


def test_load_is_open_only_where_a_window_of_milliseconds_breaks_the_promise() -> None:
    found = {
        (name, broker)
        for name in PROMISES
        for broker in KINDS
        if prediction(name, "load", broker=broker).outcome == "open"
    }
    assert found == {("acks_late", "redis"), *(("acks_early", broker) for broker in KINDS)}
    assert not any(prediction(name, "load", broker=broker).required for name in PROMISES for broker in KINDS)


def test_prediction_outside_the_table_is_that_the_promise_is_kept() -> None:
    assert prediction("outbox", "earthquake").outcome == "held"


@pytest.mark.parametrize(
    "fields",
    [
        {"outcome": "unknown"},
        {"outcome": "held", "required": frozenset({"charged"})},
        {"outcome": "held", "required": frozenset({"lost"}), "excluded": frozenset({"lost"})},
    ],
)
def test_prediction_that_makes_no_sense_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"prediction|name"):
        Prediction(why="because", **fields)  # type: ignore[arg-type]


def test_redis_may_lose_the_one_message_that_is_popped_and_recorded_nowhere() -> None:
    for fault in ("broker-kill-always", "broker-kill-everysec", "broker-full", "broker-disk-full"):
        stock = {name: prediction(name, fault).outcome for name in PROMISES}
        assert {name for name, outcome in stock.items() if outcome == "open"} - {"acks_early"} == {
            "acks_late", "dedup_lock", "inbox",
        }  # fmt: skip
        for name in PROMISES:
            ours = prediction(name, fault, broker="reliable")
            assert (ours.outcome, LOST in ours.excluded) == ("held", True)


def test_killed_rabbitmq_loses_nothing_and_repeats_only_where_nothing_recognises_a_copy() -> None:
    for name in PROMISES:
        found = prediction(name, "broker-kill", broker="rabbitmq-quorum")
        assert LOST in found.excluded
        assert ("duplicated" in found.excluded) == (name not in {"acks_early", "acks_late"})
        assert found.outcome == ("open" if name == "acks_early" else "held")


def test_killed_database_loses_no_job_that_must_be_done() -> None:
    for name, promise in PROMISES.items():
        found = prediction(name, "database-kill")
        assert found.outcome == "held"
        assert LOST in found.excluded or not promise.effects.least


def test_clock_that_jumps_repeats_jobs_only_where_a_worker_s_clock_decides_what_is_overdue() -> None:
    for name in PROMISES:
        assert prediction(name, "clock-jump", broker="reliable").excluded == {"lost", "duplicated"}
        assert prediction(name, "clock-jump", broker="rabbitmq-quorum").excluded == {"lost", "duplicated"}
        assert ("duplicated" in prediction(name, "clock-jump").excluded) == (name not in {"acks_early", "acks_late"})


def test_prediction_of_a_memory_error_is_that_of_a_dead_worker_except_before_the_body() -> None:
    for name in PROMISES:
        assert prediction(name, "out-of-memory").required == prediction(name, "kill-main").required
        assert (prediction(name, "out-of-memory", "started").outcome == "open") == (
            name in {"acks_early", "claim_first"}
        )
