"""The secret key of this checkout, kept in the state folder."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


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
