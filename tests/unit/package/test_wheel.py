"""The wheel: all files of tasks_demo, its version and its dependencies."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

import tasks_demo
from tests.support import PROJECT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder: Path = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=PROJECT, check=True, capture_output=True, timeout=60)
    (file,) = folder.glob("*.whl")
    return zipfile.ZipFile(file)


def test_wheel_holds_every_file_of_the_package(wheel: zipfile.ZipFile) -> None:
    known = {
        str(path.relative_to(PROJECT))
        for path in (PROJECT / "tasks_demo").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert {name for name in wheel.namelist() if ".dist-info/" not in name} == known
    assert {Path(name).suffix for name in known} >= {".lua", ".sql", ".html", ".css", ".json", ".typed"}


def test_wheel_needs_celery_django_and_redis_only(wheel: zipfile.ZipFile) -> None:
    (name,) = [name for name in wheel.namelist() if name.endswith("/METADATA")]
    about = message_from_bytes(wheel.read(name))
    assert about["Version"] == tasks_demo.__version__
    needed = about.get_all("Requires-Dist") or []
    always = sorted(line.partition(">")[0].partition("[")[0] for line in needed if "extra ==" not in line)
    assert always == ["celery", "django", "redis"]
    assert set(about.get_all("Provides-Extra") or []) == {"postgres", "demo", "lab", "metrics"}
