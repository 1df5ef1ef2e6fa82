"""What the exporter answers on port 9464: the series, the status page, health, configuration.

    GET  /metrics    the series; OpenMetrics and gzip for those who accept them
    GET  /           the status page; `?refresh=off` leaves it as it is
    GET  /explain/ID why the attempts of a trace were bad, as JSON; 404 where none is remembered
    GET  /explain    likewise of a journey: `?journey=J&since=1h`
    GET  /config     the effective configuration, as YAML
    GET  /healthz    200 while the process answers, and what ails it that a restart would not mend
    GET  /readyz     200 while requests are accepted and the log has been read, else 503 and why
    POST /-/reload   reads the configuration file again; 500 and the problems where it cannot

Everything comes in as callables, so that the application knows neither pipeline nor clock. What may
take long runs in threads, two at a time: a crowd of scrapers waits, and costs no memory. Errors are
plain text. Where `metrics.tokens` are configured everything but health asks for one. The
configuration names files of secrets and holds none. Where the port is open to browsers, pages of
other sites can neither read an answer (no CORS) nor trigger a reload (Sec-Fetch-Site).
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from decimal import Decimal
from http import HTTPStatus

import yaml
from isal import igzip
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from outcome_exporter import page
from outcome_exporter.config import Config
from outcome_exporter.errors import OutcomeExporterError
from outcome_exporter.exposition import (
    CONTENT_TYPE_OPENMETRICS,
    CONTENT_TYPE_TEXT,
    BrokenSeries,
    accepts_gzip,
    render,
    wants_openmetrics,
)
from outcome_exporter.model import Snapshot
from outcome_exporter.question import Asked, read_question

_PLAIN = "text/plain; charset=utf-8"
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": page.CONTENT_SECURITY_POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_Endpoint = Callable[[Request], Awaitable[Response]]
_COMPRESS_FROM_BYTES = 1_024
_COMPRESSION_LEVEL = 2
"""Of isal: 17 MB of series become 0.6 MB in 6 ms; zlib takes 80 ms for little less."""
_AT_ONCE = 2


def metrics_app(
    *,
    snapshot: Callable[[], Snapshot],
    ready: Callable[[], str | None],
    ailments: Callable[[], Sequence[str]] = lambda: (),
    reload: Callable[[], None],
    config: Callable[[], Config],
    now: Callable[[], int],
    explain: Callable[[Asked], object | None],
    allows: Callable[[str | None], bool] = lambda _authorization: True,
) -> Starlette:
    """The application.

    Args:
        snapshot: Every series now. Called from threads.
        ready: None, or why not yet and how far the replay has come. Must not block.
        ailments: What does not work just now, a full disk for instance. Must not block.
        reload: Takes over the configuration file as it is now, or raises an error of ours; then
            the running configuration stays. Called from a thread, never twice at once.
        config: The running configuration.
        now: Nanoseconds since 1970.
        explain: What is known of a trace or a journey, for JSON; None: nothing. Called from
            threads.
        allows: Whether a request with this `Authorization` may see more than health.
    """
    site = _Site(snapshot, ready, ailments, reload, config, now, explain)

    def guarded(answer: _Endpoint) -> _Endpoint:
        async def ask(request: Request) -> Response:
            if allows(request.headers.get("authorization")):
                return await answer(request)
            # Browsers know how to ask for a password.
            return _text(
                "no token that opens; send `Authorization: Bearer TOKEN`, or it as the password",
                HTTPStatus.UNAUTHORIZED,
                {"WWW-Authenticate": 'Basic realm="outcome-exporter", Bearer'},
            )

        return ask

    app = Starlette(
        routes=[
            Route("/", guarded(site.status_page)),
            Route("/metrics", guarded(site.metrics)),
            Route("/explain", guarded(site.explain)),
            Route("/explain/{trace_id}", guarded(site.explain)),
            Route("/config", guarded(site.effective_config)),
            Route("/healthz", site.healthz),
            Route("/readyz", site.readyz),
            Route("/-/reload", guarded(site.reload_config), methods=["POST"]),
        ],
        exception_handlers={HTTPException: _refusal, Exception: _defect},
    )
    app.router.redirect_slashes = False
    return app


class _Site:
    """The answers. Times and series come from outside, see `metrics_app`."""

    def __init__(
        self,
        snapshot: Callable[[], Snapshot],
        ready: Callable[[], str | None],
        ailments: Callable[[], Sequence[str]],
        reload: Callable[[], None],
        config: Callable[[], Config],
        now: Callable[[], int],
        explain: Callable[[Asked], object | None],
    ) -> None:
        self._snapshot = snapshot
        self._ready = ready
        self._ailments = ailments
        self._reload = reload
        self._config = config
        self._now = now
        self._explain = explain
        self._places = asyncio.Semaphore(_AT_ONCE)
        self._reloading = asyncio.Lock()

    async def metrics(self, request: Request) -> Response:
        async with self._places:
            return await run_in_threadpool(self._metrics, request)

    def _metrics(self, request: Request) -> Response:
        openmetrics = wants_openmetrics(request.headers.get("accept", ""))
        body = render(self._snapshot(), openmetrics=openmetrics)
        content_type = CONTENT_TYPE_OPENMETRICS if openmetrics else CONTENT_TYPE_TEXT
        return _answer(request, body, content_type)

    async def status_page(self, request: Request) -> Response:
        async with self._places:
            return await run_in_threadpool(self._status_page, request)

    def _status_page(self, request: Request) -> Response:
        html = page.render_page(
            self._config(),
            self._snapshot(),
            self._now(),
            not_ready=self._ready(),
            refresh=request.query_params.get("refresh") != "off",
        )
        return _answer(request, html.encode("utf-8", "replace"), "text/html; charset=utf-8")

    async def explain(self, request: Request) -> Response:
        try:
            asked = read_question(
                request.path_params.get("trace_id", ""),
                request.query_params.get("journey", ""),
                request.query_params.get("since", "1h"),
            )
        except ValueError as error:
            return _text(str(error), HTTPStatus.BAD_REQUEST)
        async with self._places:
            found = await run_in_threadpool(self._explain, asked)
        if found is None:
            return _text(asked.unknown, HTTPStatus.NOT_FOUND)
        body = json.dumps(found, ensure_ascii=False).encode("utf-8", "replace")
        return _answer(request, body, "application/json")

    async def effective_config(self, request: Request) -> Response:
        return _answer(request, config_as_yaml(self._config()).encode(), _PLAIN)

    async def healthz(self, _request: Request) -> Response:
        return _text("\n".join(["ok", *self._ailments()]))

    async def readyz(self, _request: Request) -> Response:
        why_not = self._ready()
        if why_not is None:
            return _text("ready")
        return _text(f"not ready: {why_not}", HTTPStatus.SERVICE_UNAVAILABLE)

    async def reload_config(self, request: Request) -> Response:
        if request.headers.get("sec-fetch-site", "none") not in {"none", "same-origin"}:
            return _text("a page of another site asked for this reload", HTTPStatus.FORBIDDEN)
        async with self._reloading:
            try:
                await run_in_threadpool(self._reload)
            except OutcomeExporterError as error:
                # 500, as Prometheus answers: what watches the file knows what it means.
                return _text(
                    f"not reloaded, the running configuration stays:\n{error}",
                    HTTPStatus.INTERNAL_SERVER_ERROR,
                )
        return _text("reloaded")


def config_as_yaml(config: Config) -> str:
    """A configuration as a file that reads back as the same configuration."""
    return yaml.dump(
        config.model_dump(exclude_none=True, by_alias=True),
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
    )


class _Dumper(yaml.SafeDumper):
    """YAML as people write it: tuples are lists, decimals plain numbers, nothing is an alias."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 PyYAML's signature
        return True


_Dumper.add_representer(tuple, _Dumper.represent_list)
_Dumper.add_representer(Decimal, lambda dumper, number: dumper.represent_scalar(*_plain(number)))


def _plain(number: Decimal) -> tuple[str, str]:
    kind = "int" if number == number.to_integral_value() else "float"
    return f"tag:yaml.org,2002:{kind}", f"{number.normalize():f}"


def _answer(request: Request, body: bytes, content_type: str) -> Response:
    headers = {**_HEADERS, "Content-Type": content_type, "Vary": "Accept, Accept-Encoding"}
    if len(body) >= _COMPRESS_FROM_BYTES and accepts_gzip(
        request.headers.get("accept-encoding", "")
    ):
        headers["Content-Encoding"] = "gzip"
        body = igzip.compress(body, _COMPRESSION_LEVEL, mtime=0)
    return Response(body, headers=headers)


def _text(
    text: str, status: HTTPStatus = HTTPStatus.OK, headers: Mapping[str, str] | None = None
) -> Response:
    return Response(
        f"{text}\n".encode("utf-8", "backslashreplace"),
        status_code=status,
        headers={**_HEADERS, **(headers or {}), "Content-Type": _PLAIN},
    )


async def _refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    text = f"{status.phrase}: {error.detail}"
    if status is HTTPStatus.NOT_FOUND:
        text = (
            "nothing is here; try /, /metrics, /explain, /config, /healthz, /readyz or "
            "POST /-/reload"
        )
    if status is HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = (error.headers or {}).get("Allow", "")
        text = f"{request.url.path} does not take {request.method}; it takes {allowed}"
    return _text(text, status, error.headers)


async def _defect(_request: Request, error: Exception) -> Response:
    what = f"{error}; " if isinstance(error, BrokenSeries) else ""
    return _text(
        f"{what}this is a defect of the exporter, its log says more",
        HTTPStatus.INTERNAL_SERVER_ERROR,
    )
