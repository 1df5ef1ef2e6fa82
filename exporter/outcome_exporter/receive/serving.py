"""Runs an ASGI application in a thread of its own, and stops it within a deadline."""

import socket
import threading

import uvicorn
from starlette.types import ASGIApp

from outcome_exporter.errors import ListenError

KEEP_ALIVE_SECONDS = 120
"""Longer than the Collector keeps idle connections (90 s): whoever closes first must be the client,
or a request races the close."""


class ThreadedServer:
    """One listening address."""

    def __init__(self, app: ASGIApp, address: str) -> None:
        """Nothing is bound before `start`."""
        self._address = address
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                http="httptools",
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
            )
        )
        self._thread: threading.Thread | None = None

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
        """Takes no more requests, lets those that run finish within the grace, then cuts them.

        What waits for the disk cannot be cut: it is waited for once more as long, then left alone.
        """
        if self._thread is None:
            return
        self._server.should_exit = True
        self._thread.join(grace_seconds)
        self._server.force_exit = True
        self._thread.join(grace_seconds)
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
