"""``make matrix``: run the core's tests on each supported version of Celery and Django, each in its own environment.

The environments are installed from the registry and deleted afterwards. Arguments select cells: ``celery5.5-django5.2``;
``--python PATH`` takes another interpreter. Cells whose Django needs a newer Python than that are left out, and named.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from itertools import product
from pathlib import Path

from tasks_demo.core.versions import CELERY, DJANGO

PROJECT = Path(__file__).resolve().parent.parent
PACKAGES = ["core", "patterns", "leases", "outbox", "ledger", "checks", "testing"]
TESTS = [f"tests/unit/{package}" for package in PACKAGES]
#: With real workers: every pattern, and the hooks.
TESTS += ["tests/integration/docs/test_examples.py", "tests/integration/hooks/test_log_fields.py"]
TOOLS = [
    "pytest",
    "pytest-django",
    "pytest-randomly",
    "pytest-timeout",
    "pytest-xdist",
    "hypothesis",
    "dj-database-url",
]
TOOLS += ["pydantic", "whitenoise", "psycopg[binary]", "jsonschema", "pyyaml", "msgpack"]


def main(arguments: list[str]) -> int:
    """Run the cells; print one line for each, and the end of the output of each failure."""
    cells = {f"celery{celery}-django{django}": (celery, django) for celery, django in product(CELERY, DJANGO)}
    parser = argparse.ArgumentParser(prog="python -m tests.matrix")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("cells", nargs="*", metavar="CELL", help=", ".join(cells))
    asked = parser.parse_args(arguments)
    if unknown := set(asked.cells) - set(cells):
        parser.error(f"no such cell: {', '.join(sorted(unknown))}; there are {', '.join(cells)}")
    too_old = subprocess.run(
        [asked.python, "-c", "import sys; sys.exit(sys.version_info < (3, 12))"], check=False
    ).returncode
    wanted = list(asked.cells or cells)
    left_out = [name for name in wanted if too_old and float(cells[name][1]) >= 6]
    failed = [name for name in wanted if name not in left_out and not _passes(asked.python, name, *cells[name])]
    if left_out:
        print(f"left out, because their Django needs Python 3.12: {', '.join(left_out)}")  # noqa: T201
    return 1 if failed or left_out == wanted else 0


def _passes(interpreter: str, name: str, celery: str, django: str) -> bool:
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="matrix-") as folder:
        python = str(Path(folder) / "venv/bin/python")
        uv = [sys.executable, "-m", "uv"]
        packages = [f"celery[redis]=={celery}.*", f"django=={django}.*", f"{PROJECT}[lab,metrics]", *TOOLS]
        env = {key: value for key, value in os.environ.items() if key not in ("DATABASE_URL", "REDIS_URL", "BANK_URL")}
        for command in (
            [*uv, "venv", "--quiet", "--python", interpreter, str(Path(folder) / "venv")],
            [*uv, "pip", "install", "--quiet", "--python", python, *packages],
            [python, "-m", "pytest", "-q", "-n", "2", "--dist", "loadfile", *TESTS],
        ):
            done = subprocess.run(
                command, cwd=PROJECT, env=env, capture_output=True, text=True, timeout=1200, check=False
            )
            if done.returncode:
                break
    said = (done.stdout + done.stderr).strip().splitlines()
    closing = next(
        (line for line in reversed(said) if " passed" in line or " failed" in line), f"exit {done.returncode}"
    )
    print(f"{name:24} {'passed' if done.returncode == 0 else 'FAILED'} {time.monotonic() - began:4.0f} s  {closing}")  # noqa: T201
    if done.returncode:
        print("\n".join(said[-60:]))  # noqa: T201
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
