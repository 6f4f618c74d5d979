"""docker-compose.yml: pinned images, unprivileged users, and no default secrets."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from typing import Any

import pytest

from tests.support import PROJECT

yaml = pytest.importorskip("yaml", reason="PyYAML comes with the development tools: `make install-dev`")

TEXT = (PROJECT / "docker-compose.yml").read_text()
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(TEXT)["services"]
REQUIRED = re.compile(r"\$\{([A-Z_]+):\?[^}]+\}")
#: Empty unless it is set.
OPTIONAL = re.compile(r"\$\{(RABBITMQ_PASSWORD):\+(?:[^${}]|\$\{\1\})*\}")
VARIABLE = re.compile(r"(?<!\$)\$\{?([A-Za-z_]+)")

every_service = pytest.mark.parametrize("name", sorted(SERVICES))


@every_service
def test_compose_service_is_pinned_and_unprivileged(name: str) -> None:
    service = SERVICES[name]
    assert re.fullmatch(r"[a-z-]+:\d+\.\d+(\.\d+)?(-[a-z]+)?", service["image"])
    assert str(service["user"]).split(":")[0] not in {"", "0", "root"}
    assert (service["cap_drop"], service["read_only"], service["init"]) == (["ALL"], True, True)


@every_service
def test_compose_secrets_come_from_the_environment(name: str) -> None:
    for variable, value in SERVICES[name]["environment"].items():
        if re.search(r"PASSWORD|SECRET|AUTH", variable):
            assert REQUIRED.fullmatch(value) or OPTIONAL.fullmatch(value), f"{variable} must be ${{NAME:?what to set}}"
        if "://" in value and "@" in value and not OPTIONAL.fullmatch(value):
            password = value.partition("://")[2].rpartition("@")[0].partition(":")[2]
            assert REQUIRED.fullmatch(password), f"{variable} holds a literal password"


def test_compose_variables_have_no_default_and_the_example_names_them_all() -> None:
    used = set(VARIABLE.findall(TEXT))  # $$NAME is for the container's own shell
    assert used == set(REQUIRED.findall(TEXT)) | set(OPTIONAL.findall(TEXT))
    example = dict(re.findall(r"^([A-Z_]+)=(.*)$", (PROJECT / ".env.example").read_text(), re.MULTILINE))
    assert example == dict.fromkeys(used, "")


def test_compose_publishes_the_dashboard_only_and_on_loopback() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert list(published) == ["web"]
    assert all(port.startswith("127.0.0.1:") for port in published["web"])


def test_compose_keeps_the_bank_apart() -> None:
    assert not {"DATABASE_URL", "REDIS_URL"} & set(SERVICES["bank"]["environment"])
    for name in ("web", "worker", "relay", "migrate"):
        assert "BANK_DATABASE_URL" not in SERVICES[name]["environment"]
        assert "books" not in SERVICES[name]["networks"]


def test_compose_redis_is_durable_and_the_worker_may_finish_its_longest_task(settings: Any) -> None:
    command = " ".join(SERVICES["redis"]["command"])
    for option in ("--appendonly yes", "--maxmemory-policy noeviction", "requirepass"):
        assert option in command
    assert int(SERVICES["worker"]["stop_grace_period"].rstrip("s")) > settings.CELERY_TASK_TIME_LIMIT


@pytest.mark.parametrize("filled", [True, False])
def test_compose_is_read_by_docker_and_refused_without_its_variables(filled: bool) -> None:
    done = _config(**dict.fromkeys(REQUIRED.findall(TEXT), "8000") if filled else {})
    if filled:
        assert done.returncode == 0, done.stderr
        assert set(json.loads(done.stdout)["services"]) == set(SERVICES) - {"rabbitmq"}
    else:
        assert done.returncode != 0
        assert "set " in done.stderr


@pytest.mark.parametrize(("password", "address"), [("", ""), ("s3cret", "amqp://tasks_demo:s3cret@rabbitmq:5672//")])
def test_compose_profile_rabbitmq_carries_the_queue_if_it_has_a_password(password: str, address: str) -> None:
    done = _config(
        **dict.fromkeys(REQUIRED.findall(TEXT), "8000"), RABBITMQ_PASSWORD=password, COMPOSE_PROFILES="rabbitmq"
    )
    assert done.returncode == 0, done.stderr
    services = json.loads(done.stdout)["services"]
    assert services["rabbitmq"]["environment"]["RABBITMQ_DEFAULT_PASS"] == password
    for name in ("web", "worker", "relay"):
        assert services[name]["environment"]["BROKER_URL"] == address
        assert set(services["rabbitmq"]["networks"]) & set(services[name]["networks"])


def _config(**variables: str) -> subprocess.CompletedProcess[str]:
    """What docker compose makes of the file."""
    if not shutil.which("docker") or subprocess.run(["docker", "compose", "version"], capture_output=True).returncode:  # noqa: S607
        pytest.skip("docker compose is not installed")
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(
        ["docker", "compose", "--env-file", os.devnull, "config", "--format", "json"],  # noqa: S607
        cwd=PROJECT,
        env={**kept, **variables},
        capture_output=True,
        text=True,
    )
