"""What the demo uses where a project sets nothing: addresses below the state folder, SQLite files. Imports no Django."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import quote

# sun_path holds 108 bytes on Linux and 104 on macOS, including the terminating NUL.
LONGEST_SOCKET_PATH = 100
#: For a SQLite file that several processes write to.
SQLITE_OPTIONS = {
    # Take the write lock at BEGIN, so that a second writer waits instead of failing in the middle.
    "transaction_mode": "IMMEDIATE",
    "timeout": 20,
    # NORMAL in WAL mode: SIGKILL loses no committed transaction; a power cut may.
    "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
}


def sqlite_file(path: Path | str) -> dict[str, Any]:
    """Return the database of this file, in the form of DATABASES."""
    return {"ENGINE": "django.db.backends.sqlite3", "NAME": str(path), "OPTIONS": dict(SQLITE_OPTIONS)}


def redis_socket(state_dir: Path) -> Path:
    """Return the Unix socket of this checkout's embedded Redis; in the temporary folder if the path would be too long."""
    path = state_dir / "redis.sock"
    if len(os.fsencode(path)) <= LONGEST_SOCKET_PATH:
        return path
    digest = hashlib.sha256(os.fsencode(state_dir)).hexdigest()[:12]
    return short_temporary_folder() / f"tasks-demo-{os.getuid()}-{digest}" / "redis.sock"


def short_temporary_folder() -> Path:
    """Return the temporary folder for folders of sockets: /tmp if TMPDIR is so long that the path of a socket in it would be
    too long."""
    folder = tempfile.gettempdir()
    return Path(folder if len(os.fsencode(folder)) <= LONGEST_SOCKET_PATH // 2 else "/tmp")  # noqa: S108  (mode 700 below it)


def redis_address(state_dir: Path) -> str:
    """Return the URL of that socket."""
    return f"unix://{quote(str(redis_socket(state_dir)))}"


def bank_address(state_dir: Path) -> str:
    """Return the address of this checkout's bank: a loopback port in 20000–29999 derived from the state folder."""
    digest = hashlib.sha256(os.fsencode(state_dir)).digest()
    return f"http://127.0.0.1:{20000 + int.from_bytes(digest[:4], 'big') % 10000}"


def set_defaults(settings: Any) -> None:
    """Complete Django's settings: what has no URL is embedded, and its files are in STATE_DIR, or else BASE_DIR/.state."""
    base = Path(getattr(settings, "BASE_DIR", None) or Path.cwd())
    settings.STATE_DIR = state = Path(getattr(settings, "STATE_DIR", None) or base / ".state").absolute()
    for name, address in (("REDIS", redis_address), ("BANK", bank_address)):
        given = getattr(settings, f"{name}_URL", "")
        if not hasattr(settings, f"{name}_IS_EMBEDDED"):
            setattr(settings, f"{name}_IS_EMBEDDED", not given)
        if not given:
            setattr(settings, f"{name}_URL", address(state))
    if not getattr(settings, "TASKS_DEMO_BANK_URL", ""):
        settings.TASKS_DEMO_BANK_URL = settings.BANK_URL
