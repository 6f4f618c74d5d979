"""Identifies the user who runs a command, for the records of decisions."""

from __future__ import annotations

import getpass
import os


def system_user() -> str:
    """Return the system user's name, or ``uid`` and the number if it has none."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        return f"uid {os.getuid()}"
