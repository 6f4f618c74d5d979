"""Stands between one side of a cell and a server, and cuts, delays or swallows what passes.

The sides are its workers and their broker; or, for a fault of one request (``Fault.disturbed_request``), its publisher and the
broker, or its workers and their database or the Redis of their leases. Whoever else uses the server connects past it. It knows
bytes only, so that it serves every server without TLS.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
import time
import uuid
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, unquote, urlsplit

from tasks_demo.core.exceptions import EnvironmentNotReady
from tasks_demo.lab.plan.faults import Fault
from tasks_demo.lab.plan.timing import ANSWER_SECONDS, DISTURBED_SECONDS, LATENCY_SECONDS
from tasks_demo.lab.processes.failpoints import GO_ON

_PORTS = {"redis": 6379, "redis-plus": 6379, "amqp": 5672, "postgresql": 5432}
#: For a fault of one request: what the request is known by, if it has not the job's task ID in it.
_REQUESTS = {"commit": b"COMMIT"}
_CHUNK = 65536
_POLL_SECONDS = 0.01
#: Maximum time for the proxy's own thread to carry out a request, seconds.
_ANSWER_SECONDS = 30.0
#: An answer after which the client sends the same request again: Redis does not know the script.
_SENT_AGAIN = b"-NOSCRIPT"
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close with a reset

T = TypeVar("T")
_Side = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class FaultProxy:
    """One listener, and a connection to the server for each one that it accepts; in a thread of its own.

    A fault of one request disturbs one request and its answer: the first request that has the bytes in question. A cut lets the
    request pass and closes the connection instead of the answer, so that nobody on this side knows whether it was executed; a
    delay is over when both have arrived.

    ``lock``: held by whoever disturbs, because there is one disturbance at a time. ``url``: the broker's address through it;
    known after ``start``. ``held_seconds``: nobody is held while connections are disturbed.
    """

    held_seconds = 0.0

    def __init__(self, url: str, folder: Path, fault: Fault) -> None:
        """``url``: of the server, in kombu's form. ``fault``: what ``begin`` does."""
        self.fault = fault
        self.url = ""
        self._what, self._of_request = fault.disturbance, bool(fault.disturbed_request)
        self._at_answer = self._of_request and self._what is Fault.CUT
        self.seconds = ANSWER_SECONDS if self._at_answer else DISTURBED_SECONDS.get(self._what, 0.0)
        self.lock = threading.Lock()
        self._target = urlsplit(url)
        if self._target.scheme.endswith("ss") or self._target.scheme == "amqps":
            raise EnvironmentNotReady(f"{fault} cannot be injected into TLS connections: name a broker without TLS.")
        self._path = folder / f"{uuid.uuid4().hex[:8]}.p"
        self._open: dict[object, tuple[_Side, ...]] = {}
        self._healthy = asyncio.Event()
        self._healthy.set()
        #: For a fault of one request: the bytes by which the request is known, and whether it has been seen.
        self._request, self._seen = b"", False
        #: Bytes that were held back for the full time or swallowed, to the server and from it; to it, where a cut waits for the
        #: answer, those that passed.
        self._stopped = [0, 0]

    @property
    def _is_socket(self) -> bool:
        return self._target.scheme.endswith("socket")

    @property
    def port(self) -> int:
        """The port of 127.0.0.1 at which it listens; 0: it listens at a socket. Known after ``start``."""
        return urlsplit(self.url).port or 0

    def start(self) -> None:
        """Listen. A connection that the broker refuses is closed."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)
        self._thread.start()
        self._server = self._do(self._listen())

    async def _listen(self) -> asyncio.Server:
        old = self._target
        if self._is_socket and not old.scheme.startswith("postgresql"):  # whose clients know a socket by its port
            server = await asyncio.start_unix_server(self._serve, str(self._path))
            self.url = f"{old.scheme}://{quote(str(self._path))}" + (f"?{old.query}" if old.query else "")
            return server
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        user, at, _ = old.netloc.rpartition("@")
        self.url = old._replace(netloc=f"{user}{at}127.0.0.1:{server.sockets[0].getsockname()[1]}").geturl()
        return server

    def begin(self, task_id: str) -> int:
        """Cut every connection, or delay or swallow from now on what passes; return how many connections are open.

        For a fault of one request, wait for the request of this job first, maybe on a new connection.
        """
        return self._do(self._begin(task_id))

    async def _begin(self, task_id: str) -> int:
        number = len(self._open) or int(self._of_request)
        self._stopped = [0, 0]
        self._request = _REQUESTS.get(self.fault.disturbed_request, task_id.encode())
        self._seen = not self._of_request
        if self._what is Fault.CUT and not self._at_answer:
            self._abort()
        else:
            self._healthy.clear()
        return number

    def wait_until_over(self, closing: threading.Event) -> None:
        """Return when the fault is over, or when ``closing`` is set. The time of a fault of one request begins with it."""
        ends, lasts = time.monotonic() + ANSWER_SECONDS, False
        while not (self._is_over() or closing.wait(_POLL_SECONDS)) and time.monotonic() < ends:
            if self._seen != lasts:
                lasts = self._seen
                ends = time.monotonic() + (self.seconds if lasts else ANSWER_SECONDS)

    def _is_over(self) -> bool:
        """A black hole is never over by itself: this side has to wait for its answer for a while."""
        return self._of_request and self._what is not Fault.BLACK_HOLE and all(self._stopped)

    def release(self, line: socket.socket) -> None:
        """Let the victim at the other end of ``line`` go on meanwhile."""
        line.sendall(GO_ON)

    def heal(self) -> str:
        """Let everything pass again, after a black hole on new connections only; return why nothing was disturbed, or ""."""
        return self._do(self._heal())

    async def _heal(self) -> str:
        self._healthy.set()
        to, back = self._stopped
        if self._what is Fault.BLACK_HOLE:
            self._abort()
            return "" if to + back else "no byte was on its way"
        if self._at_answer:
            return "" if to and back else "no answer was on its way"
        return "" if to and back else "no request and reply was delayed for the full time"

    def close(self) -> None:
        """Close every connection, and end the thread."""
        if not self.url:
            return
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _close(self) -> None:
        self._server.close()
        self._healthy.set()
        while others := asyncio.all_tasks() - {asyncio.current_task()}:  # one may be connecting
            self._abort()
            await asyncio.wait(others, timeout=0.05)

    def _abort(self) -> None:
        for sides in self._open.values():
            for _, writer in sides:
                with contextlib.suppress(OSError):
                    if (end := writer.get_extra_info("socket")).family != socket.AF_UNIX:
                        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                writer.transport.abort()

    def _do(self, what: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(_ANSWER_SECONDS)

    async def _connect(self) -> _Side:
        target = self._target
        if self._is_socket:
            return await asyncio.open_unix_connection(unquote(target.path))
        usual = _PORTS[target.scheme.rpartition("+")[2]]
        return await asyncio.open_connection(target.hostname or "127.0.0.1", target.port or usual)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        mine = object()
        parts: list[asyncio.Task[None]] = []
        try:
            broker = await self._connect()
            self._open[mine] = (reader, writer), broker
            passing = []
            for way, source, target in ((0, reader, broker[1]), (1, broker[0], writer)):
                pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
                parts.append(asyncio.ensure_future(self._read(source, pieces, way)))
                passing.append(asyncio.ensure_future(self._pass(pieces, target, way)))
            parts += passing
            await asyncio.wait(passing, return_when=asyncio.FIRST_COMPLETED)
            broker[1].close()
        except OSError:
            pass
        finally:
            for part in parts:
                part.cancel()
            self._open.pop(mine, None)
            writer.close()

    async def _read(self, source: asyncio.StreamReader, pieces: asyncio.Queue[tuple[float, bytes]], way: int) -> None:
        """Take what one side says, and when it is due at the other; an empty piece is its end."""
        with contextlib.suppress(OSError):
            while piece := await source.read(_CHUNK):
                if self._healthy.is_set() or (self._of_request and self._passes(piece, way)):
                    pieces.put_nowait((0.0, piece))
                elif self._what is Fault.DELAY:
                    pieces.put_nowait((self._loop.time() + LATENCY_SECONDS, piece))
                else:
                    self._stopped[way] += len(piece)
                    if self._at_answer and way == 0:
                        pieces.put_nowait((0.0, piece))
                    elif self._at_answer:
                        self._healthy.set()
                        self._abort()
        if self._what is Fault.BLACK_HOLE:
            await self._healthy.wait()  # the other side does not hear of this end
        pieces.put_nowait((0.0, b""))

    def _passes(self, piece: bytes, way: int) -> bool:
        """Whether this is neither the request that is waited for, nor what follows it."""
        if way == 0 and self._request in piece:
            self._seen = True
        elif way == 1 and self._at_answer and piece.startswith(_SENT_AGAIN):
            self._seen, self._stopped = False, [0, 0]
        return not self._seen

    async def _pass(self, pieces: asyncio.Queue[tuple[float, bytes]], target: asyncio.StreamWriter, way: int) -> None:
        """Say it to the other side when it is due, until the end."""
        with contextlib.suppress(OSError):
            while True:
                due, piece = await pieces.get()
                if due and (early := due - self._loop.time()) > 0:
                    try:
                        await asyncio.wait_for(self._healthy.wait(), early)
                    except TimeoutError:
                        self._stopped[way] += len(piece)
                if not piece:
                    return
                target.write(piece)
                await target.drain()
