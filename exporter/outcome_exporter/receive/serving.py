"""Runs an ASGI application in a thread of its own, within bounds, and stops it within a deadline.

What one connection can cost is bounded: the time of its handshake, the bytes and the time of its
headers, the requests that it sends ahead, the time of what it still sends after its answer, the
time in which it must read an answer, and the number of connections. Where there are too many, the
one that has been idle longest makes room, then the one whose body takes longest: thousands of idle
or slow connections keep nobody out for long. How long a body may take while there is room is the
application's to say.
"""

import asyncio
import logging
import socket
import ssl
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from outcome_exporter.errors import ListenError

if TYPE_CHECKING:
    from asyncio import TimerHandle

logger = logging.getLogger(__name__)

KEEP_ALIVE_SECONDS = 120
"""Longer than the Collector keeps idle connections (90 s): whoever closes first must be the client,
or a request races the close."""
HANDSHAKE_SECONDS = 10.0
"""Time for the handshake of TLS."""
CLOSE_SECONDS = 2.0
"""Time in which a client must say that it saw the end of TLS."""
HEADER_SECONDS = 10.0
"""Time for the headers of a request to come whole, from the connection's or their own beginning."""
HEADER_BYTES_MAX = 64 << 10
READ_BYTES = 1 << 20
"""Read at a time."""
DRAIN_SECONDS = 10.0
"""Time in which the rest of a body that was refused is still read and thrown away: clients that
write first and read later see why."""
WRITE_SECONDS = 60.0
"""Time in which a client must take an answer."""
CONNECTIONS_MAX = 1_000
"""Of one listener."""
CUT = (
    "crowded",
    "slow_handshake",
    "slow_headers",
    "large_headers",
    "slow_body",
    "slow_reader",
    "pipelining",
    "stopping",
)
"""Why connections are cut."""
HURRY_SECONDS = 2.0
"""Time that a body has to come whole while others wait for its place."""
PIPELINED_MAX = 16
"""Requests of one connection that may wait for the answer to one before them. Few clients send any
ahead, and each takes some 3 KB, though it came in 25 bytes."""
_NOTICE_SECONDS = 1.0
"""uvicorn looks ten times a second whether it is to end, and whether it has."""


class _Crowd:
    """The connections of one listener, and which of them are idle."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.cut = dict.fromkeys(CUT, 0)
        self.all: set[_Connection | _Handshake] = set()
        self.idle: OrderedDict[_Connection | _Handshake, None] = OrderedDict()
        """Idle longest first; one whose handshake is not over does nothing yet."""
        self.reading: OrderedDict[_Connection, float] = OrderedDict()
        """Those whose body is not whole, longest first, and since when."""
        self.buffer = memoryview(bytearray(READ_BYTES))

    def enter(self, connection: "_Connection | _Handshake") -> bool:
        """Whether there is, or was made, room for one more."""
        if len(self.all) >= self.limit:
            self.cut["crowded"] += 1
            oldest = self._dispensable(connection.loop.time())
            if oldest is None:
                return False
            self.leave(oldest)
            oldest.transport.abort()
        self.all.add(connection)
        self.idle[connection] = None
        return True

    def _dispensable(self, now: float) -> "_Connection | _Handshake | None":
        for connection in self.idle:
            return connection
        for connection, since in self.reading.items():
            return connection if now - since > HURRY_SECONDS else None
        return None

    def leave(self, connection: "_Connection | _Handshake") -> None:
        self.all.discard(connection)
        self.idle.pop(connection, None)
        if isinstance(connection, _Connection):
            self.reading.pop(connection, None)

    def end(self) -> None:
        """Cuts who keeps the listener from ending; who waits for an answer may wait on."""
        for connection in list(self.all):
            connection.end()


class _Handshake(asyncio.Protocol):
    """A connection whose handshake of TLS is not over.

    asyncio's own servers tell of a connection only after that, so that those which never come to it
    would be neither counted nor found when room is needed.
    """

    def __init__(self, crowd: _Crowd, tls: ssl.SSLContext, **kwargs: Any) -> None:  # noqa: ANN401 - uvicorn's own
        self.loop = asyncio.get_running_loop()
        self._crowd = crowd
        self._tls = tls
        self._connection = partial(_Connection, crowd, **kwargs)
        self._early: list[bytes] = []
        """What came with the end of the handshake."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        if self._crowd.enter(self):
            self._task = self.loop.create_task(self._shake_hands())
        else:
            transport.abort()

    def data_received(self, data: bytes) -> None:
        self._early.append(data)

    async def _shake_hands(self) -> None:
        encrypted = None
        try:
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                encrypted = await self.loop.start_tls(
                    self.transport,
                    self,
                    self._tls,
                    server_side=True,
                    ssl_shutdown_timeout=CLOSE_SECONDS,
                )
        except TimeoutError:
            self._crowd.cut["slow_handshake"] += 1
        except OSError:
            pass  # no client of ours, or one that went
        finally:
            self._crowd.leave(self)
        if encrypted is not None:
            connection = self._connection()
            encrypted.set_protocol(connection)
            connection.connection_made(encrypted)
            for data in self._early:
                connection.data_received(data)

    def end(self) -> None:
        self.transport.abort()


class _Connection(HttpToolsProtocol, asyncio.BufferedProtocol):
    """uvicorn's, with the bounds it lacks, and one buffer of the listener that all is read into.

    asyncio would make a new one of 256 KiB for each read: 2.2 ms of CPU for 3.4 MB, not 1.8.
    """

    def __init__(self, crowd: _Crowd, **kwargs: Any) -> None:  # noqa: ANN401 - uvicorn's own
        super().__init__(**kwargs)
        self._crowd = crowd
        self._timers: dict[str, TimerHandle] = {}
        self._header_bytes = 0
        self._in_headers = True
        self._in_body = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if not self._crowd.enter(self):
            logger.warning("%d connections are open: one more is refused", self._crowd.limit)
            transport.abort()
            return
        self._arm("slow_headers", HEADER_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        self._crowd.leave(self)
        for name in list(self._timers):
            self._disarm(name)
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's signature
        return self._crowd.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.data_received(self._crowd.buffer[:nbytes])

    def data_received(self, data: bytes | memoryview) -> None:
        if self._in_headers:
            self._header_bytes += len(data)
            if "slow_headers" not in self._timers:
                self._arm("slow_headers", HEADER_SECONDS)
        super().data_received(cast("bytes", data))  # its parser takes any buffer, and copies
        if self._in_headers and self._header_bytes > HEADER_BYTES_MAX:
            self._refuse_headers()

    def on_headers_complete(self) -> None:
        if self.transport.is_closing():
            return  # of what was read with that for which it was cut, there may be much more
        if len(self.pipeline) >= PIPELINED_MAX:
            self._cut("pipelining")
            return
        if sum(len(name) + len(value) for name, value in self.headers) > HEADER_BYTES_MAX:
            self._refuse_headers()
            return
        self._in_headers, self._in_body = False, True
        self._header_bytes = 0
        self._disarm("slow_headers")
        self._crowd.idle.pop(self, None)
        self._crowd.reading[self] = self.loop.time()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if not self.transport.is_closing():
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_headers, self._in_body = True, False
        self._disarm("slow_body")
        self._crowd.reading.pop(self, None)
        if not self.transport.is_closing():
            super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            return
        if self.cycle.response_complete:
            self._crowd.idle[self] = None
        if self._in_body:
            self._arm("slow_body", DRAIN_SECONDS)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._arm("slow_reader", WRITE_SECONDS)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._disarm("slow_reader")

    def _refuse_headers(self) -> None:
        self._refuse("large_headers", b"431 Request Header Fields Too Large")

    def end(self) -> None:
        if self._in_body and not self.cycle.response_started:
            self._refuse("stopping", b"503 Service Unavailable\r\nretry-after: 1")
        elif self.flow.write_paused:
            self._cut("stopping")

    def _refuse(self, why: str, status: bytes) -> None:
        """Answers in the application's place, which sees a client that went."""
        if not self.transport.is_closing():
            self._crowd.cut[why] += 1
            self.transport.write(
                b"HTTP/1.1 " + status + b"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            )
            self.transport.close()

    def _arm(self, name: str, seconds: float) -> None:
        self._disarm(name)
        self._timers[name] = self.loop.call_later(seconds, self._cut, name)

    def _cut(self, why: str) -> None:
        self._crowd.cut[why] += 1
        self.transport.abort()

    def _disarm(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()


class _Server(uvicorn.Server):
    """uvicorn's, which ends its connections after a while."""

    def __init__(self, config: uvicorn.Config, crowd: _Crowd) -> None:
        super().__init__(config)
        self._crowd = crowd
        self.grace_seconds = 0.0

    async def shutdown(self, sockets: Sequence[socket.socket] | None = None) -> None:
        end = asyncio.get_running_loop().call_later(self.grace_seconds, self._crowd.end)
        await super().shutdown(list(sockets or []))
        end.cancel()


class ThreadedServer:
    """One listening address."""

    def __init__(
        self,
        app: ASGIApp,
        address: str,
        *,
        tls: ssl.SSLContext | None = None,
        connections_max: int = CONNECTIONS_MAX,
    ) -> None:
        """Nothing is bound before `start`."""
        self._address = address
        self._crowd = _Crowd(connections_max)
        made: Callable[..., asyncio.Protocol] = partial(_Connection, self._crowd)
        if tls is not None:
            made = partial(_Handshake, self._crowd, tls)
        self._server = _Server(
            uvicorn.Config(
                app,
                # Called like the class that it stands for.
                http=cast("type[asyncio.Protocol]", made),
                loop="asyncio",
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
            ),
            self._crowd,
        )
        self._thread: threading.Thread | None = None

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._crowd.all)

    @property
    def cut(self) -> dict[str, int]:
        """How many were cut, by why."""
        return dict(self._crowd.cut)

    def start(self) -> int:
        """Binds, begins to serve, and returns the port: the one chosen where it was 0.

        Raises:
            ListenError: The address is taken or is none.
        """
        listener = bind(self._address)
        port = int(listener.getsockname()[1])
        # A daemon: a disk that hangs must not keep the process from ending.
        # Connections wait in the socket's backlog until the loop runs: no need to wait here.
        self._thread = threading.Thread(
            target=self._server.run, args=([listener],), name=f"http {self._address}", daemon=True
        )
        self._thread.start()
        return port

    def stop(self, grace_seconds: float) -> None:
        """Takes no more requests, and cuts those that have not come whole within the grace.

        What waits for the disk cannot be cut: it is waited for once more as long, then left alone.
        """
        if self._thread is None:
            return
        self._server.grace_seconds = grace_seconds
        self._server.should_exit = True
        self._thread.join(2 * grace_seconds + _NOTICE_SECONDS)
        self._thread = None


def split(address: str) -> tuple[str, int]:
    """Host and port of ``host:port``, ``[::]:port``.

    Raises:
        ListenError: It is no such address.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:  # noqa: PLR2004 -- TCP's last port
        raise ListenError(address, "no address like 0.0.0.0:4318 or [::]:4318")
    return host.removeprefix("[").removesuffix("]"), int(port)


def bind(address: str) -> socket.socket:
    """A listening socket.

    Raises:
        ListenError: The address is taken or is none.
    """
    host, port = split(address)
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ListenError(address, error.strerror or str(error)) from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(place)
        listener.listen(1024)
    except OSError as error:
        listener.close()
        raise ListenError(address, error.strerror or str(error)) from None
    return listener
