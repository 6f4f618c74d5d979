"""Follow README, "Adopt a pattern", then docs/how-to/adopt.md, literally: first their files, then their commands."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests import forks
from tests.snippets import Piece, commands, everything
from tests.support import PROJECT, until

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
    env |= {"PYTHONPATH": f"{folder}:{PROJECT}"}
    running = []

    def forked(command: Sequence[str]) -> list[str]:
        """The arguments of the interpreter for a command of the page."""
        program, *arguments = command
        modules = {"celery": "celery", "django-admin": "django"}
        return arguments if program == "python" else ["-m", modules[program], *arguments]

    def run(*command: str, codes: tuple[int, ...] = (0,)) -> str:
        code, out, err = forks.run(forked(command), cwd=folder, env=env, timeout=60)
        assert code in codes, f"{command}: {out}{err}"
        return out + err

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
                    process = forks.spawn(forked(words), log=log, env=env, cwd=folder)
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
