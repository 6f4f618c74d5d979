"""A host of its own for a worker: a network namespace, cut off without a word, so that nobody gets a reset or an end of file."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator

#: Nobody has it: frames that are sent there vanish.
NOBODY = "02:00:00:00:00:01"


class Host:
    """Joined to us by a pair of virtual interfaces. ``ours``: our address, as seen from there."""

    def __init__(self) -> None:
        self.name = f"td{secrets.token_hex(4)}"
        # Addresses that are reserved for measurements.
        network = f"198.{18 + secrets.randbelow(2)}.{secrets.randbelow(256)}.{4 * secrets.randbelow(64)}"
        start, _, last = network.rpartition(".")
        self.ours, self._theirs = f"{start}.{int(last) + 1}", f"{start}.{int(last) + 2}"

    def make(self) -> None:
        """Raises subprocess.CalledProcessError if this system does not permit it."""
        ip("netns", "add", self.name)
        ip("link", "add", self.name, "type", "veth", "peer", "name", "td0", "netns", self.name)
        ip("address", "add", f"{self.ours}/30", "dev", self.name)
        ip("link", "set", self.name, "up")
        ip("-n", self.name, "address", "add", f"{self._theirs}/30", "dev", "td0")
        ip("-n", self.name, "link", "set", "td0", "up")

    def remove(self) -> None:
        for command in (("link", "delete", self.name), ("netns", "delete", self.name)):
            with contextlib.suppress(subprocess.CalledProcessError):
                ip(*command)

    def cut(self, ways: str) -> None:
        """Lose every packet. ``ways``: "both", "from it" or "to it"."""
        if ways != "from it":
            ip("neighbour", "replace", self._theirs, "lladdr", NOBODY, "dev", self.name, "nud", "permanent")
        if ways != "to it":
            ip("-n", self.name, "neighbour", "replace", self.ours, "lladdr", NOBODY, "dev", "td0", "nud", "permanent")

    def heal(self) -> None:
        """Let each side find the address of the other again."""
        for there, dev, address in ((), self.name, self._theirs), (("-n", self.name), "td0", self.ours):
            known = json.loads(ip(*there, "-j", "neighbour", "show", address, "dev", dev) or "[]")
            if any("PERMANENT" in entry["state"] for entry in known):
                ip(*there, "neighbour", "delete", address, "dev", dev)


def ip(*words: str) -> str:
    return subprocess.run([shutil.which("ip") or "ip", *words], check=True, capture_output=True, text=True).stdout


def missing() -> str:
    """Why this system cannot have such a host; empty if it can, and in CI where it should."""
    if os.geteuid() or not shutil.which("ip"):
        return "a network namespace needs root and the command ip"
    if os.environ.get("CI"):
        return ""
    try:
        with a_host():
            return ""
    except subprocess.CalledProcessError as error:
        return f"this system permits no network namespace: {error.stderr.strip()}"


@contextlib.contextmanager
def a_host() -> Iterator[Host]:
    host = Host()
    try:
        host.make()
        yield host
    finally:
        host.remove()
