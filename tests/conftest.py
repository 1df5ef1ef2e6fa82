"""What all tests share: repeatable Hypothesis runs, and no way out of the machine."""

import ipaddress
import socket
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# Derandomised, so that a run says the same as the one before; a slow machine is no failure.
settings.register_profile(
    "repeatable",
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("repeatable")


def _is_local(address: object) -> bool:
    if not isinstance(address, tuple):
        return True  # a Unix socket
    try:
        return ipaddress.ip_address(address[0]).is_loopback
    except ValueError:
        return address[0] in {"localhost", ""}


@pytest.fixture(autouse=True, scope="session")
def _loopback_only():
    """A test that reaches beyond the machine fails: it would depend on what it cannot control.

    Guards Python's sockets; grpc's own are beyond its reach.
    """

    def guarded(
        connect: Callable[[socket.socket, Any], Any],
    ) -> Callable[[socket.socket, Any], Any]:
        def guard(self: socket.socket, address: Any) -> Any:
            assert _is_local(address), f"a test connects to {address}; only loopback is allowed"
            return connect(self, address)

        return guard

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded(socket.socket.connect), raising=True)
        patch.setattr(socket.socket, "connect_ex", guarded(socket.socket.connect_ex), raising=True)
        yield
