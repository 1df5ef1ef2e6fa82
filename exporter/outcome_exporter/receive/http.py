"""OTLP and business events over HTTP, on one port.

| path | takes | answers |
| --- | --- | --- |
| POST /v1/traces, /v1/logs, /v1/metrics | OTLP as protobuf or JSON | 200, in the request's type |
| POST /events | CloudEvents 1.0: binary, structured, batch | 202 and JSON |

202 as Knative's brokers answer: accepted for good, joined later. What is refused is told as a
google.rpc.Status, see `refusals`.

The event loop only moves bytes: a body is read in pieces, under three bounds (its own size, the
bytes of all requests at once, and a time to come whole), and then handed to a bounded number of
threads that decompress, decode and wait for the disk.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from google.protobuf.message import Message
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from outcome_exporter import events, strict_json
from outcome_exporter.errors import DecodeError, Overloaded, TooLarge
from outcome_exporter.model import Accepted, Encoding, Intake, Kind
from outcome_exporter.receive import otlp_json
from outcome_exporter.receive.access import OPEN, Access
from outcome_exporter.receive.compression import decompress
from outcome_exporter.receive.counters import ReceiverCounters
from outcome_exporter.receive.refusals import (
    Refusal,
    TooSlow,
    Unauthenticated,
    Unsupported,
    refusal,
)
from outcome_exporter.receive.signals import SIGNALS, Signal
from outcome_exporter.receive.turns import LARGE_BYTES, Turns

WORKERS = 16
"""Requests that are handed over at once: as many share one write to the disk."""
READ_SECONDS = 60
"""Time for a body to come whole."""
IN_FLIGHT_REQUESTS = 4
"""Largest requests whose bytes may be in memory at once, in all connections together."""

PROTOBUF = "application/x-protobuf"
JSON = "application/json"
STRUCTURED = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"

_ENCODINGS = {
    "": Encoding.NONE,
    "identity": Encoding.NONE,
    "gzip": Encoding.GZIP,
    "x-gzip": Encoding.GZIP,
    "zstd": Encoding.ZSTD,
    "deflate": Encoding.DEFLATE,
}
_ACCEPTED_ENCODINGS = "gzip, zstd, deflate, identity"
_QUOTED = re.compile(rb'"(.*)"', re.DOTALL)


class Taken(NamedTuple):
    """A request that was accepted."""

    accepted: Accepted
    response: Response


Take = Callable[[Request, bytes], Taken]
"""What a path does with a body, in a thread of its own."""


def app(
    intake: Intake,
    counters: ReceiverCounters,
    *,
    max_request_bytes: int,
    workers: int = WORKERS,
    read_seconds: float = READ_SECONDS,
    access: Access = OPEN,
    origins: Sequence[str] = (),
) -> Starlette:
    """The application of the OTLP HTTP port.

    Args:
        intake: Where payloads go.
        counters: Where requests are counted.
        max_request_bytes: Largest body, as sent and after decompression.
        workers: Threads that hand payloads over.
        read_seconds: Time for a body to come whole.
        access: Who may send.
        origins: Web sites whose pages may send.
    """
    turns = Turns(LARGE_BYTES)
    desk = _Desk(counters, max_request_bytes, workers, read_seconds, access)
    routes = [
        Route(
            signal.path,
            desk.endpoint(
                signal.name, partial(_take_otlp, intake, signal, max_request_bytes, turns)
            ),
            methods=["POST"],
        )
        for signal in SIGNALS
    ]
    take = partial(_take_events, intake, max_request_bytes, turns)
    routes.append(Route("/events", desk.endpoint("events", take), methods=["POST"]))
    # A browser asks first whether a page may send; it does so without a token.
    cors = Middleware(
        CORSMiddleware, allow_origins=origins, allow_methods=["POST"], allow_headers=["*"]
    )
    application = Starlette(
        routes=routes,
        middleware=[cors] if origins else [],
        exception_handlers={HTTPException: _elsewhere},
    )
    application.router.redirect_slashes = False
    return application


async def _elsewhere(_request: Request, error: Exception) -> Response:
    """Another path, or another method: most often a sender's address lacks its end."""
    assert isinstance(error, HTTPException)
    paths = ", ".join((*(signal.path for signal in SIGNALS), "/events"))
    text = f"nothing is here; senders POST to {paths}\n"
    return PlainTextResponse(text, error.status_code, error.headers)


class _Desk:
    """Reads bodies within bounds, has them taken in threads, and answers."""

    def __init__(
        self,
        counters: ReceiverCounters,
        max_request_bytes: int,
        workers: int,
        read_seconds: float,
        access: Access,
    ) -> None:
        self._counters = counters
        self._max_request_bytes = max_request_bytes
        self._read_seconds = read_seconds
        self._access = access
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="http worker")
        self._in_flight_bytes = 0

    def endpoint(self, signal: str, take: Take) -> Callable[[Request], Awaitable[Response]]:
        """What Starlette calls for a path."""

        async def answer(request: Request) -> Response:
            try:
                return await self._answer(request, signal, take)
            except ClientDisconnect:
                self._counters.refused("http", signal, "aborted")
                return Response(status_code=400)  # nobody is there to read it
            except Exception as error:  # noqa: BLE001 -- every error becomes a status
                refused = refusal(error)
                self._counters.refused("http", signal, refused.result)
                return _refuse(request, refused)

        return answer

    async def _answer(self, request: Request, signal: str, take: Take) -> Response:
        if not self._access.allows(request.headers.get("authorization")):
            raise Unauthenticated
        with self._lease() as hold:
            body = await self._read(request, hold)
            loop = asyncio.get_running_loop()
            # Not anyio's threads: 0.25 ms of CPU for a request of 32 events, not 0.32.
            taken = await loop.run_in_executor(self._pool, take, request, body)
        self._counters.accepted(
            "http", signal, body_bytes=len(body), rejected=taken.accepted.rejected
        )
        return taken.response

    @contextmanager
    def _lease(self) -> Iterator[Callable[[int], None]]:
        """Accounts for bytes in memory, until the request is done with."""
        held = 0

        def hold(size: int) -> None:
            nonlocal held
            held += size
            self._in_flight_bytes += size
            if self._in_flight_bytes > IN_FLIGHT_REQUESTS * self._max_request_bytes:
                raise Overloaded("too many requests at once")

        try:
            yield hold
        finally:
            self._in_flight_bytes -= held

    async def _read(self, request: Request, hold: Callable[[int], None]) -> bytes:
        # What a refused client still sends is read and thrown away by the server, so that clients
        # that write first and read later see the answer.
        limit = self._max_request_bytes
        declared = request.headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > limit:
            raise TooLarge("the request", limit_bytes=limit)
        pieces = []
        size = 0
        try:
            async with asyncio.timeout(self._read_seconds):
                async for piece in request.stream():
                    size += len(piece)
                    if size > limit:
                        raise TooLarge("the request", limit_bytes=limit)
                    hold(len(piece))
                    pieces.append(piece)
        except TimeoutError:
            raise TooSlow(f"the body did not come within {self._read_seconds:g} s") from None
        return b"".join(pieces)


def _take_otlp(
    intake: Intake, signal: Signal, limit_bytes: int, turns: Turns, request: Request, body: bytes
) -> Taken:
    media = _media_type(request)
    encoding = _encoding(request)
    if media == JSON:
        plain = decompress(encoding, body, limit_bytes)
        with turns.of(len(plain)):
            body = otlp_json.parse(plain, signal.request)
        encoding = Encoding.NONE
    elif media != PROTOBUF:
        raise Unsupported(f"content type {media!r:.80}; send {PROTOBUF} or {JSON}")
    accepted = intake.submit(signal.kind, encoding, body)
    return Taken(accepted, _message(media, signal.answer(accepted)))


def _take_events(
    intake: Intake, limit_bytes: int, turns: Turns, request: Request, body: bytes
) -> Taken:
    media = _media_type(request)
    encoding = _encoding(request)
    attributes = _binary_attributes(request)
    if media == BATCH:
        payload = body
    elif media == STRUCTURED:
        plain = decompress(encoding, body, limit_bytes)
        with turns.of(len(plain)):
            payload = events.cloudevents_of_structured(plain)
        encoding = Encoding.NONE
    elif attributes and not media.startswith("application/cloudevents"):
        plain = decompress(encoding, body, limit_bytes)
        with turns.of(len(plain)):
            payload = events.cloudevents_of_binary(
                attributes, request.headers.get("content-type"), plain
            )
        encoding = Encoding.NONE
    else:
        raise Unsupported(
            f"content type {media!r:.80} without ce- headers; send {STRUCTURED}, {BATCH}, or a"
            " CloudEvent in binary mode with its attributes as headers: ce-specversion, ce-id …"
        )
    accepted = intake.submit(Kind.CLOUDEVENTS, encoding, payload)
    answer = {"rejected": accepted.rejected} | ({"why": accepted.why} if accepted.why else {})
    return Taken(accepted, Response(strict_json.dumps(answer), 202, media_type=JSON))


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _encoding(request: Request) -> Encoding:
    name = ",".join(request.headers.getlist("content-encoding")).strip().lower()
    encoding = _ENCODINGS.get(name)
    if encoding is None:
        raise Unsupported(f"content encoding {name!r:.80}; send {_ACCEPTED_ENCODINGS}")
    return encoding


def _binary_attributes(request: Request) -> Mapping[str, str]:
    return {
        name[3:].decode("ascii", "replace"): _header_text(name, value)
        for name, value in request.headers.raw
        if name.startswith(b"ce-")
    }


def _header_text(name: bytes, value: bytes) -> str:
    """A header's value: a quoted string is unquoted, percent encoding is UTF-8.

    Source:
        CloudEvents HTTP protocol binding 1.0.2, section 3.1.3.2.
    """
    if quoted := _QUOTED.fullmatch(value):
        value = re.sub(rb"\\(.)", rb"\1", quoted.group(1), flags=re.DOTALL)
    try:
        return unquote_to_bytes(value).decode()
    except UnicodeDecodeError:
        raise DecodeError(f"header {name.decode('ascii', 'replace')}: no UTF-8") from None


def _message(media: str, message: Message, status: int = 200) -> Response:
    if media == PROTOBUF:
        return Response(message.SerializeToString(), status, media_type=PROTOBUF)
    return Response(otlp_json.write(message), status, media_type=JSON)


def _refuse(request: Request, refused: Refusal) -> Response:
    response = _message(_media_type(request), refused.status(), refused.http_status)
    if refused.retry_after_seconds is not None:
        response.headers["retry-after"] = str(refused.retry_after_seconds)
    if refused.result == "unauthenticated":
        response.headers["www-authenticate"] = "Bearer"
    if refused.result == "unsupported":
        response.headers["accept-encoding"] = _ACCEPTED_ENCODINGS
    return response
