"""Serves the metrics from a worker's main process, at TASKS_DEMO_METRICS_ADDRESS."""

from __future__ import annotations

import logging
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from celery import signals
from django.db import connections
from prometheus_client import CONTENT_TYPE_LATEST

from tasks_demo.core.conf import settings
from tasks_demo.core.exceptions import InvalidSetting
from tasks_demo.metrics.scrape import FOLDER, exposition

logger = logging.getLogger(__name__)
#: The connection of a client that sends nothing for this long is closed, seconds.
PATIENCE = 5.0


class _Handler(BaseHTTPRequestHandler):
    timeout = PATIENCE

    def do_GET(self) -> None:
        try:
            body = exposition()
        except Exception:
            logger.exception("The metrics could not be collected; this scrape gets a 500.")
            self.send_error(500)
            return
        finally:
            connections.close_all()  # this thread's own
        self.send_response(200)
        self.send_header("Content-Type", CONTENT_TYPE_LATEST)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: scrapes are routine."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True


@signals.worker_ready.connect(weak=False, dispatch_uid="tasks_demo.metrics")
def _serve(sender: Any = None, **_: Any) -> None:
    """Start the server. On failure logs an error; the worker still starts."""
    if hasattr(sender.pool, "maintain_pool") and FOLDER not in os.environ:
        _warn_without_folder()
    try:
        address = settings.METRICS_ADDRESS
        if not address:
            return
        host, _colon, port = address.rpartition(":")
        server = _Server((host, int(port)), _Handler)
    except (OSError, ValueError, OverflowError, InvalidSetting) as error:
        logger.error(
            "No metrics are served at TASKS_DEMO_METRICS_ADDRESS: %s. Jobs are not affected. Write a free host:port; if a "
            "machine has several workers, one of them serves the metrics of all.", error,
        )  # fmt: skip
        return
    # A pool process that is forked later inherits the socket and would keep the port open after this process has ended.
    os.register_at_fork(after_in_child=server.socket.close)
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    logger.info("Metrics are served at http://%s:%d/.", *server.server_address[:2])


def _warn_without_folder() -> None:
    logger.error(
        "%s is not set: the counts of pool processes are not served. Set it, for every process that imports tasks_demo, to a "
        "folder that is emptied when the machine's workers are started.", FOLDER,
    )  # fmt: skip
