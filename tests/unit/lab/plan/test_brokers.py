"""The kinds of brokers: what the options mean, and what changes in plans and predictions."""

from __future__ import annotations

import pytest

from tasks_demo.core.semantics import PROMISES
from tasks_demo.lab.plan.brokers import KINDS, kind_of
from tasks_demo.lab.plan.cells import plan
from tasks_demo.lab.plan.faults import Fault
from tasks_demo.lab.plan.predictions import prediction

KEEPING = [name for name, kind in KINDS.items() if not kind.loses_fetched]


@pytest.mark.parametrize(
    ("broker", "queue", "kind"),
    [
        ("redis", "", "redis"),
        ("rediss://u:p@host:1/2", "", "redis"),
        ("unix:///run/redis.sock", "", "redis"),
        ("rabbitmq", "", "rabbitmq-quorum"),
        ("rabbitmq", "classic", "rabbitmq-classic"),
        ("amqps://u:p@host/vhost", "quorum", "rabbitmq-quorum"),
        ("reliable", "", "reliable"),
        ("reliable+redis://u:p@host:1/2", "", "reliable"),
        ("reliable+socket:///run/redis.sock", "", "reliable"),
    ],
)
def test_kind_of(broker: str, queue: str, kind: str) -> None:
    assert kind_of(broker, queue).name == kind


@pytest.mark.parametrize(
    ("broker", "queue", "said"),
    [
        ("kafka", "", "Unknown broker 'kafka': write redis, rabbitmq"),
        ("http://host", "", "Unknown broker"),
        ("", "", "Unknown broker"),
        ("amqp", "", "Unknown broker"),
        ("redis://host", "quorum", "--queue quorum would do nothing here: redis has no types of queues"),
    ],
)
def test_kind_of_nothing_known_is_refused(broker: str, queue: str, said: str) -> None:
    with pytest.raises(ValueError, match=r"broker|queue") as refused:
        kind_of(broker, queue)
    assert said in str(refused.value)


@pytest.mark.parametrize("name", KINDS)
def test_plan_needs_the_outbox_only_where_a_fetched_message_can_be_lost(name: str) -> None:
    cells = plan(
        patterns=["inbox", "dedup_lock"], faults=[Fault.KILL_MAIN], points=["fetched", "started"], brokers=[name], seed=1,
        tasks=5, kills=1, work_ms=0,
    )  # fmt: skip
    assert {cell.broker for cell in cells} == {name}
    through = {cell.point for cell in cells if cell.publisher == "outbox"}
    assert through == ({"fetched"} if name == "redis" else set())


@pytest.mark.parametrize("name", KEEPING)
@pytest.mark.parametrize("pattern", [pattern for pattern, promise in PROMISES.items() if promise.effects.least])
def test_prediction_is_that_a_broker_which_records_first_loses_nothing(name: str, pattern: str) -> None:
    assert prediction("acks_late", "kill-main", "fetched").required == {"lost"}
    for point in ("fetched", "mixed"):
        predicted = prediction(pattern, "kill-main", point, broker=name)
        assert "lost" in predicted.excluded
        assert predicted.outcome == "held"


@pytest.mark.parametrize("name", KEEPING)
@pytest.mark.parametrize("fault", ["stop", "slow"])
def test_prediction_is_that_nothing_overtakes_a_worker_that_keeps_its_connection(name: str, fault: str) -> None:
    assert prediction("acks_late", fault).required == {"duplicated"}
    for pattern in PROMISES:
        assert "duplicated" in prediction(pattern, fault, broker=name).excluded
