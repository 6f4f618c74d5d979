"""Addresses and the secret key of the embedded services, derived from the state folder."""

from __future__ import annotations

import hashlib
import os
import secrets
import tempfile
from pathlib import Path

# sun_path holds 108 bytes on Linux and 104 on macOS, including the terminating NUL.
LONGEST_SOCKET_PATH = 100


def secret_key(state_dir: Path) -> str:
    """Return this checkout's Django secret key. Generates it once, in a file that only the owner can read."""
    path = state_dir / "secret_key"
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        kept = path.read_text().strip()
        if kept:
            return kept
        path.unlink()
        return secret_key(state_dir)
    with os.fdopen(descriptor, "w") as file:
        key = secrets.token_urlsafe(50)
        file.write(key)
    return key


def redis_socket(state_dir: Path) -> Path:
    """Return the Unix socket of this checkout's embedded Redis; in the temporary folder if the path would be too long."""
    path = state_dir / "redis.sock"
    if len(os.fsencode(path)) <= LONGEST_SOCKET_PATH:
        return path
    digest = hashlib.sha256(os.fsencode(state_dir)).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"tasks-demo-{os.getuid()}-{digest}" / "redis.sock"


def bank_address(state_dir: Path) -> str:
    """Return the address of this checkout's bank: a loopback port in 20000–29999 derived from the state folder."""
    digest = hashlib.sha256(os.fsencode(state_dir)).digest()
    return f"http://127.0.0.1:{20000 + int.from_bytes(digest[:4], 'big') % 10000}"
