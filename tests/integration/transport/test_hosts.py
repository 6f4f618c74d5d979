"""A host that vanishes without a word: no reset, no end of file. Its heartbeat stands still, and it is fenced when it returns."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.transport.hosts import Host, a_host, missing
from tests.integration.transport.plain_workers import running_environment, template
from tests.support import until

__all__ = ["template"]
pytestmark = pytest.mark.timeout(120)
PORT = 16379


@pytest.fixture(scope="module")
def permitted() -> None:
    if why := missing():
        pytest.skip(why)


@pytest.fixture
def away(permitted: None) -> Iterator[Host]:
    with a_host() as made:
        yield made


@pytest.mark.parametrize("ways", ["both", "from it", "to it"])
def test_host_that_vanishes_is_replaced_and_fenced_when_it_returns(
    away: Host, ways: str, tmp_path: Path, template: subprocess.Popen[str]
) -> None:
    with running_environment(
        template, tmp_path, "--port", str(PORT), "--bind", away.ours, "--protected-mode", "no"
    ) as environment:
        broker = f"reliable+redis://{away.ours}:{PORT}/0"
        victim = environment.worker(host=away.name, broker=broker, heartbeat_timeout=3, heartbeat_interval=0.25)
        environment.publish("wait", "a")
        until(lambda: environment.count("began"), "the job")
        survivor = environment.worker(heartbeat_interval=0.25)
        away.cut(ways)
        until(lambda: environment.owners().keys() == {survivor.pid}, "it is declared dead")
        until(lambda: environment.count("began")["a"] == 2, "the survivor has the job")
        environment.release("a")
        until(lambda: environment.count("ran")["a"] == 2, "both have run it")
        until(lambda: environment.nowhere, "the survivor's acknowledgement")
        away.heal()
        until(lambda: "acknowledgement was refused" in victim.said, "the late acknowledgement is refused")
        until(lambda: victim.pid in environment.owners(), "the victim is back")
        survivor.stop(10)
        environment.publish("note", "b")
        until(lambda: environment.count("ran")["b"] == 1 and environment.nowhere, "the next job")
