"""Follow README, "Five lines to adopt", then docs/how-to/adopt.md, literally: first their files, then their commands."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tasks_demo.demo.stack.processes import spawn
from tests.snippets import Piece, commands, everything
from tests.support import PROJECT, finish, until

pytestmark = pytest.mark.timeout(180)


def _files(page: str) -> list[Piece]:
    """The blocks that are files of a project, and the files that a reader already has."""
    return [piece for piece in everything() if piece.page == page and piece.kind in ("python", "setup")]


def _write(folder: Path, files: list[Piece], redis_url: str) -> None:
    for piece in files:
        named = re.match(r"# ([a-z_/]+\.py)\n", piece.text)
        assert named, f"which file is this? {piece.text}"
        if '@DedupLock.task(name="shop.charge"' in piece.text and (folder / named[1]).exists():
            (folder / named[1]).unlink()  # the how-to shows the file of the README again
        text = piece.text
        for setting, scheme in (("TASKS_DEMO_REDIS_URL", "unix://"), ("RESULT_BACKEND", "redis+socket://")):
            url = redis_url.replace("unix://", scheme)
            text = re.sub(rf'{setting} = "redis://localhost:6379/0"', f"{setting} = {url!r}", text)
        with (folder / named[1]).open("a") as file:
            file.write("\n" + text)


def test_newcomer_who_follows_readme_and_how_to_charges_once(redis_url: str, tmp_path: Path) -> None:
    folder = tmp_path / "newcomer"
    folder.mkdir()
    env = {name: value for name, value in os.environ.items() if name not in ("DJANGO_SETTINGS_MODULE", "DATABASE_URL")}
    env |= {"PYTHONPATH": f"{folder}:{PROJECT}", "PATH": f"{Path(sys.executable).parent}:{env['PATH']}"}
    running = []

    def run(*command: str, codes: tuple[int, ...] = (0,)) -> str:
        process = subprocess.Popen(
            command, cwd=folder, env=env, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        done = finish(process)
        assert done.code in codes, f"{command}: {done.out}{done.err}"
        return done.out + done.err

    def follow(page: str) -> str:
        """Run the commands of a page and return their output. Workers and relays keep running."""
        said = ""
        for piece in everything():
            for line in commands(piece.text) if piece.page == page and piece.kind == "sh" else ():
                words = shlex.split(line, comments=True)
                if words[0] in ("make", "pip"):
                    continue  # the package is already importable
                if words[0] == "celery" or "relay" in words:
                    log = tmp_path / f"{len(running)}.log"
                    program = str(Path(sys.executable).parent / words[0])
                    process = spawn([program, *words[1:]], log=log, env=env, cwd=folder)
                    running.append(process)
                    mark = " ready." if words[0] == "celery" else "relay looks"
                    until(lambda log=log, mark=mark: mark in log.read_text(), line)  # type: ignore[misc]
                else:
                    said += run(*words, codes=(0, 1) if "doctor" in words else (0,))  # 1: this Redis has no persistence
        return said

    def python(code: str) -> str:
        return run("python", "manage.py", "shell", "--no-imports", "-c", code).strip()

    def stop() -> None:
        while running:
            running.pop().stop(10)

    run("django-admin", "startproject", "proj", ".")
    run("python", "manage.py", "startapp", "shop")
    settings = folder / "proj" / "settings.py"
    settings.write_text(settings.read_text().replace("INSTALLED_APPS = [", "INSTALLED_APPS = [\n    'shop',"))
    try:
        _write(folder, _files("README.md"), redis_url)
        assert "tasks_demo.W001" in follow("README.md"), "check says what the settings lack"
        answer = python(
            "from shop.tasks import charge\n"
            "calls = charge.delay(2, 5), charge.delay(2, amount=5), charge.delay(order_id=2, amount=5)\n"
            "print([call.get(timeout=20) for call in calls])\n"
            "from tasks_demo.ledger.models import Tally\nprint(Tally.objects.filter(pattern='dedup_lock').count())"
        )
        assert answer.splitlines() == [str(["charge:2 5"] * 3), "3"], "one charge, three task IDs on the dashboard"
        stop()

        text = settings.read_text().replace('INSTALLED_APPS += ["tasks_demo"', '_README = ["tasks_demo"')
        settings.write_text(text)
        _write(folder, _files("docs/how-to/adopt.md"), redis_url)
        said = follow("docs/how-to/adopt.md")
        assert "WARNING" not in said
        assert re.search(r"application +ok +proj", said), "the doctor found the app"
        python("from shop.orders import place_order\nplace_order(3, 7)")
        until(lambda: (folder / "charged").read_text() == "charge:2 5\ncharge:3 7\n", "both charges, each once")
    finally:
        stop()
