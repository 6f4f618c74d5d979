"""``manage.py redis``: run the embedded Redis in the foreground."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from django.conf import settings
from django.core.management.base import CommandError

from tasks_demo.demo.stack.redis import EmbeddedRedis
from tasks_demo.demo.stack.server import tail
from tasks_demo.management.arguments import Exit
from tasks_demo.management.base import PackageCommand


class Command(PackageCommand):
    help = (
        "Runs the embedded Redis in the foreground until Ctrl-C (exit 130) or SIGTERM (exit 0). Its data are kept in "
        "STATE_DIR/redis. Exit 4: it is already running, or REDIS_URL names another server."
    )
    requires_system_checks = ()

    def handle(self, *args: Any, **options: Any) -> None:
        if not settings.REDIS_IS_EMBEDDED:
            raise CommandError(
                "REDIS_URL names another server, so the embedded Redis is not needed and was not started. "
                "Unset REDIS_URL to use it.",
                returncode=Exit.NOT_READY,
            )
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        folder = settings.STATE_DIR / "redis"
        socket = Path(unquote(urlsplit(settings.REDIS_URL).path))
        try:
            with EmbeddedRedis(folder, socket) as server:
                self.stdout.write(f"Redis listening on {server.socket}, data in {server.folder}. Ctrl-C stops it.")
                assert server.process is not None  # noqa: S101
                server.process.wait()
                server.process.kill()
                raise CommandError(
                    f"Redis exited unexpectedly (code {server.process.returncode}). Last lines of {server.log}:\n"
                    f"{tail(server.log)}",
                    returncode=Exit.NOT_READY,
                )
        except KeyboardInterrupt:
            sys.exit(Exit.INTERRUPTED)
