"""docker-compose.yml keeps its promises: pinned, healthy, unprivileged, and without a secret of its own."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

yaml = pytest.importorskip("yaml", reason="PyYAML comes with the development tools: `make install-dev`")

ROOT = Path(__file__).resolve().parents[3]
TEXT = (ROOT / "docker-compose.yml").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
ONE_SHOT = {"migrate"}
REQUIRED = re.compile(r"\$\{([A-Z_]+):\?[^}]+\}")
VARIABLE = re.compile(r"(?<!\$)\$\{?([A-Za-z_]+)")

every_service = pytest.mark.parametrize("name", sorted(SERVICES))


def test_the_services_are_there() -> None:
    assert set(SERVICES) == {"redis", "postgres", "bank-postgres", "bank", "migrate", "relay", "web", "worker"}


@every_service
def test_images_are_pinned_to_an_exact_version(name: str) -> None:
    assert re.fullmatch(r"[a-z-]+:\d+\.\d+(\.\d+)?(-[a-z]+)?", SERVICES[name]["image"])


def test_the_base_image_is_pinned_and_the_last_user_is_not_root() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    bases = [line.split()[1] for line in lines if line.startswith("FROM")]
    assert bases
    assert all(re.fullmatch(r"python:3\.11\.\d+-slim-[a-z]+", base) for base in bases)
    assert [line for line in lines if line.startswith("USER")] == ["USER 10001:10001"]
    assert any("--require-hashes" in line for line in lines)


@every_service
def test_nobody_is_root(name: str) -> None:
    user = str(SERVICES[name]["user"])
    assert user.split(":")[0] not in {"", "0", "root"}
    assert SERVICES[name]["cap_drop"] == ["ALL"]
    assert SERVICES[name]["read_only"] is True


@every_service
def test_an_init_reaps_and_a_stop_has_time(name: str) -> None:
    assert SERVICES[name]["init"] is True
    assert re.fullmatch(r"\d+s", SERVICES[name]["stop_grace_period"])


def test_the_worker_may_finish_its_longest_task(settings: Any) -> None:
    grace = int(SERVICES["worker"]["stop_grace_period"].rstrip("s"))
    assert grace > settings.CELERY_TASK_TIME_LIMIT


@every_service
def test_health_is_checked(name: str) -> None:
    health = SERVICES[name]["healthcheck"]
    if name in ONE_SHOT:
        assert SERVICES[name]["restart"] == "no"
        assert health == {"disable": True}
    else:
        assert health["test"][0] in {"CMD", "CMD-SHELL"}
        assert {"interval", "timeout", "retries"} <= set(health)


@every_service
def test_who_depends_waits_for_evidence(name: str) -> None:
    for other, condition in SERVICES[name].get("depends_on", {}).items():
        expected = "service_completed_successfully" if other in ONE_SHOT else "service_healthy"
        assert condition == {"condition": expected}


@every_service
def test_secrets_come_from_the_environment(name: str) -> None:
    for variable, value in SERVICES[name]["environment"].items():
        if re.search(r"PASSWORD|SECRET|AUTH", variable):
            assert REQUIRED.fullmatch(value), f"{variable} must be ${{NAME:?what to set}}"
        if "://" in value and "@" in value:
            password = value.partition("://")[2].rpartition("@")[0].partition(":")[2]
            assert REQUIRED.fullmatch(password), f"{variable} holds a literal password"


def test_no_variable_has_a_default_and_the_example_names_them_all() -> None:
    # $$NAME is for the container's own shell.
    used = set(VARIABLE.findall(TEXT.replace("${NAME:?what", "")))
    assert used == set(REQUIRED.findall(TEXT))
    example = (ROOT / ".env.example").read_text()
    assigned = dict(re.findall(r"^([A-Z_]+)=(.*)$", example, re.MULTILINE))
    assert set(assigned) == used
    assert set(assigned.values()) == {""}


def test_only_the_dashboard_is_published_and_only_on_loopback() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert list(published) == ["web"]
    assert all(port.startswith("127.0.0.1:") for port in published["web"])


def test_redis_keeps_what_it_acknowledged() -> None:
    command = " ".join(SERVICES["redis"]["command"])
    for option in ("--appendonly yes", "--maxmemory-policy noeviction", "requirepass"):
        assert option in command


def test_the_bank_sees_nothing_of_ours_and_we_nothing_of_its_books() -> None:
    bank = SERVICES["bank"]["environment"]
    assert not {"DATABASE_URL", "REDIS_URL"} & set(bank)
    for name in ("web", "worker", "relay", "migrate"):
        assert "BANK_DATABASE_URL" not in SERVICES[name]["environment"]
        assert "books" not in SERVICES[name]["networks"]


def _compose_config(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    if not shutil.which("docker"):
        pytest.skip("docker is not installed")
    if subprocess.run(["docker", "compose", "version"], capture_output=True).returncode:  # noqa: S607
        pytest.skip("this docker has no compose plugin")
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(
        ["docker", "compose", "--env-file", os.devnull, "config", "--format", "json"],  # noqa: S607
        cwd=ROOT,
        env={**kept, **environment},
        capture_output=True,
        text=True,
    )


def test_docker_compose_reads_it() -> None:
    filled = dict.fromkeys(REQUIRED.findall(TEXT), "8000")
    done = _compose_config(filled)
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)["services"]) == set(SERVICES)


def test_docker_compose_refuses_to_start_without_its_variables() -> None:
    done = _compose_config({})
    assert done.returncode != 0
    assert "set " in done.stderr
