"""Who is let in: TLS, client certificates and tokens on every listener, with our own authorities.

A real exporter's three listeners, through its configuration file.
"""

import base64
import http.client
import logging
import ssl
import time
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
import trustme
import yaml
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from tests.receivers import LIMIT_BYTES, Inbox

from outcome_exporter import series, server
from outcome_exporter.clock import SteadyClock
from outcome_exporter.config import Config
from outcome_exporter.config.process import Listener, Tls
from outcome_exporter.errors import ConfigError
from outcome_exporter.kernels.hashing import KNOWN_SEED
from outcome_exporter.receive import access
from outcome_exporter.receive import http as receive_http
from outcome_exporter.receive.access import Access, TlsFiles
from outcome_exporter.receive.counters import ReceiverCounters
from outcome_exporter.receive.grpc import GrpcReceiver
from outcome_exporter.receive.serving import ThreadedServer
from outcome_exporter.web import config_as_yaml, metrics_app

TOKEN = "s3cret-of-the-receivers"
PAGE_TOKEN = "s3cret-of-the-page"
EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
DEADLINE_SECONDS = 20


def spans() -> bytes:
    request = ExportTraceServiceRequest()
    request.resource_spans.add().scope_spans.add().spans.add(trace_id=b"\1" * 16, span_id=b"\1" * 8)
    return request.SerializeToString()


class Authority:
    """Issues certificates into a folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.ca = trustme.CA()
        self.folder = folder
        self.pem = folder / "ca.pem"
        self.ca.cert_pem.write_to_path(self.pem)

    def issue(self, name: str, *identities: str) -> "Pair":
        cert = self.ca.issue_cert(*identities)
        pair = Pair(self.folder / f"{name}.crt", self.folder / f"{name}.key")
        pair.certificate.write_bytes(b"".join(c.bytes() for c in cert.cert_chain_pems))
        pair.key.write_bytes(cert.private_key_pem.bytes())
        return pair


@dataclass
class Pair:
    certificate: Path
    key: Path


@dataclass
class Place:
    """Three listeners that ask for the same, and how to ask each of them."""

    inbox: Inbox
    grpc: int
    http: int
    page: int
    roots: Path | None

    def ask(self, where: str, *, token=None, client: Pair | None = None, **headers) -> str:
        """What the listener says to a good request: `ok`, `unauthenticated` or `refused`."""
        if token is not None:
            headers["authorization"] = f"Bearer {token}"
        try:
            return (
                self._grpc(client, headers)
                if where == "grpc"
                else self._http(where, client, headers)
            )
        except (ssl.SSLError, ConnectionError, http.client.RemoteDisconnected):
            return "refused"

    def http_answer(
        self, port: int, method: str, path: str, body=b"", headers=(), client: Pair | None = None
    ):
        if self.roots is None:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_SECONDS)
        else:
            context = ssl.create_default_context(cafile=self.roots)
            if client is not None:
                context.load_cert_chain(client.certificate, client.key)
            connection = http.client.HTTPSConnection(
                "localhost", port, timeout=DEADLINE_SECONDS, context=context
            )
        with closing(connection):
            connection.request(method, path, body, dict(headers))
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read().decode()

    def _http(self, where: str, client: Pair | None, headers) -> str:
        if where == "http":
            headers["content-type"] = "application/x-protobuf"
            answer = self.http_answer(self.http, "POST", "/v1/traces", spans(), headers, client)
        else:
            answer = self.http_answer(self.page, "GET", "/metrics", b"", headers, client)
        return {200: "ok", 401: "unauthenticated"}[answer[0]]

    def _grpc(self, client: Pair | None, headers) -> str:
        if self.roots is None:
            channel = grpc.insecure_channel(f"127.0.0.1:{self.grpc}")
        else:
            pair = client and (client.key.read_bytes(), client.certificate.read_bytes())
            credentials = grpc.ssl_channel_credentials(
                self.roots.read_bytes(), *(pair or (None, None))
            )
            channel = grpc.secure_channel(f"localhost:{self.grpc}", credentials)
        with channel:
            try:
                channel.unary_unary(EXPORT)(
                    spans(), timeout=DEADLINE_SECONDS, metadata=tuple(headers.items())
                )
            except grpc.RpcError as error:
                said = {
                    grpc.StatusCode.UNAUTHENTICATED: "unauthenticated",
                    grpc.StatusCode.UNAVAILABLE: "refused",
                }
                return said[error.code()]
            return "ok"


@contextmanager
def listening(gate: Access, roots: Path | None = None):
    inbox, counters = Inbox(), ReceiverCounters()
    page = ThreadedServer(
        metrics_app(
            snapshot=counters.snapshot,
            ready=lambda: None,
            reload=lambda: None,
            config=Config,
            now=time.time_ns,
            explain=lambda _asked: None,
            allows=gate.allows,
        ),
        "127.0.0.1:0",
        tls=gate.ssl_context(),
    )
    web = ThreadedServer(
        receive_http.app(inbox, counters, max_request_bytes=LIMIT_BYTES, access=gate),
        "127.0.0.1:0",
        tls=gate.ssl_context(),
    )
    rpc = GrpcReceiver(
        inbox, counters, address="127.0.0.1:0", max_request_bytes=LIMIT_BYTES, access=gate
    )
    try:
        yield Place(inbox, rpc.start(), web.start(), page.start(), roots)
    finally:
        rpc.stop(1)
        web.stop(1)
        page.stop(1)


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("ours"))


@pytest.fixture(scope="module")
def server_pair(ours):
    return ours.issue("server", "localhost", "127.0.0.1")


@pytest.fixture
def token_file(tmp_path):
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    return file


LISTENERS = pytest.mark.parametrize("where", ["grpc", "http", "page"])


@pytest.fixture(scope="module")
def with_tokens(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokens")
    for name, token in (("one", TOKEN), ("other", "another")):
        (folder / name).write_text(token)
    with listening(Access("x", token_files=[folder / "one", folder / "other"])) as place:
        yield place


@LISTENERS
@pytest.mark.parametrize(
    "wrong", [None, "", "wrong", TOKEN[:-1], f"{TOKEN}x", TOKEN.upper(), "x" * 5_000]
)
def test_without_the_right_token_nothing_gets_in(where, wrong, with_tokens):
    before = len(with_tokens.inbox.records)
    assert with_tokens.ask(where, token=wrong) == "unauthenticated"
    assert len(with_tokens.inbox.records) == before


@LISTENERS
@pytest.mark.parametrize("right", [TOKEN, "another"])
def test_each_configured_token_opens(where, right, with_tokens):
    assert with_tokens.ask(where, token=right) == "ok"


@LISTENERS
def test_browsers_send_the_token_as_the_password(where, with_tokens):
    for password, answer in ((TOKEN, "ok"), ("wrong", "unauthenticated")):
        basic = base64.b64encode(f"me:{password}".encode()).decode()
        assert with_tokens.ask(where, authorization=f"Basic {basic}") == answer
    assert with_tokens.ask(where, authorization="Basic !!") == "unauthenticated"
    assert with_tokens.ask(where, authorization=TOKEN) == "unauthenticated"


@pytest.mark.parametrize("path", ["/", "/metrics", "/config", "/-/reload"])
def test_the_page_shows_nothing_without_a_token(path, with_tokens):
    method = "POST" if path == "/-/reload" else "GET"
    status, headers, body = with_tokens.http_answer(with_tokens.page, method, path)
    assert status == 401
    assert 'Basic realm="outcome-exporter"' in headers["www-authenticate"]
    assert "outcome_" not in body


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_health_is_open_to_whoever_watches(path, with_tokens):
    assert with_tokens.http_answer(with_tokens.page, "GET", path)[0] == 200


@LISTENERS
def test_a_token_is_replaced_while_the_listener_runs(where, token_file, caplog):
    caplog.set_level(logging.INFO)
    gate = Access("receivers.otlp.grpc", token_files=[token_file])
    with listening(gate) as place:
        replace(token_file, b"renewed")
        assert place.ask(where, token=TOKEN) == "unauthenticated"
        assert place.ask(where, token="renewed") == "ok"
        # What cannot be used changes nothing, and is said.
        replace(token_file, b" \n")
        assert place.ask(where, token="renewed") == "ok"
        assert place.ask(where, token="") == "unauthenticated"
        assert not gate.ok
        token_file.unlink()
        assert place.ask(where, token="renewed") == "ok"
        replace(token_file, b"once-more")
        assert place.ask(where, token="once-more") == "ok"
        assert gate.ok
    assert "holds no token" in caplog.text
    assert "renewed" not in caplog.text.replace("credentials renewed", "")


def replace(file: Path, content: bytes) -> None:
    """As secrets are mounted: another file in its place."""
    fresh = file.with_suffix(".new")
    fresh.write_bytes(content)
    fresh.replace(file)


@LISTENERS
def test_a_listener_with_a_certificate_proves_who_it_is(where, ours, server_pair, tmp_path):
    stranger = Authority(tmp_path / "stranger")
    gate = Access("x", tls=TlsFiles(server_pair.certificate, server_pair.key))
    with listening(gate, ours.pem) as place:
        assert place.ask(where) == "ok"
        place.roots = stranger.pem
        assert place.ask(where) == "refused"
        place.roots = None
        assert place.ask(where) == "refused", "without TLS nothing is answered"


@LISTENERS
def test_mutual_tls_asks_every_client_for_a_certificate_of_the_right_authority(
    where, ours, server_pair, tmp_path
):
    clients = Authority(tmp_path / "clients")
    friend = clients.issue("friend", "friend@example.com")
    stranger = Authority(tmp_path / "strangers").issue("stranger", "friend@example.com")
    gate = Access("x", tls=TlsFiles(server_pair.certificate, server_pair.key, clients.pem))
    with listening(gate, ours.pem) as place:
        assert place.ask(where, client=friend) == "ok"
        before = len(place.inbox.records)
        assert place.ask(where) == "refused"
        assert place.ask(where, client=stranger) == "refused"
        assert place.ask(where, client=ours.issue("wrong", "friend@example.com")) == "refused"
        assert len(place.inbox.records) == before


@LISTENERS
def test_certificates_are_replaced_while_the_listener_runs(where, tmp_path):
    old, new = Authority(tmp_path / "old"), Authority(tmp_path / "new")
    pair = old.issue("server", "localhost", "127.0.0.1")
    clients = tmp_path / "clients.pem"
    friend = old.issue("friend", "friend@example.com")
    clients.write_bytes(old.pem.read_bytes())
    gate = Access("x", tls=TlsFiles(pair.certificate, pair.key, clients))
    with listening(gate, old.pem) as place:
        assert place.ask(where, client=friend) == "ok"
        renewed = new.issue("server", "localhost", "127.0.0.1")
        replace(pair.certificate, renewed.certificate.read_bytes())
        # Certificate and key do not belong together now: the old ones stay.
        assert place.ask(where, client=friend) == "ok"
        assert not gate.ok
        replace(pair.key, renewed.key.read_bytes())
        place.roots = new.pem
        assert place.ask(where, client=friend) == "ok"
        assert gate.ok
        # The authority of clients is replaced too, not added to.
        replace(clients, new.pem.read_bytes())
        assert place.ask(where, client=friend) == "refused"
        assert place.ask(where, client=new.issue("c", "friend@example.com")) == "ok"


def test_the_receivers_and_the_page_are_protected_apart(tmp_path):
    for name, token in (("senders", TOKEN), ("page", PAGE_TOKEN)):
        (tmp_path / name).write_text(token)
    config = {
        "receivers": {
            "otlp": {
                "grpc": {"listen": "127.0.0.1:0", "tokens": [str(tmp_path / "senders")]},
                "http": {"listen": "127.0.0.1:0", "tokens": [str(tmp_path / "senders")]},
            }
        },
        "metrics": {"listen": "127.0.0.1:0", "tokens": [str(tmp_path / "page")]},
        "storage": {"path": str(tmp_path / "data")},
    }
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    exporter = server.Server(file)
    try:
        exporter.start()
        page, rpc, web = exporter.ports
        place = Place(Inbox(), rpc, web, page, None)
        for where, right, wrong in (
            ("grpc", TOKEN, PAGE_TOKEN),
            ("http", TOKEN, PAGE_TOKEN),
            ("page", PAGE_TOKEN, TOKEN),
        ):
            assert place.ask(where, token=right) == "ok"
            assert place.ask(where, token=wrong) == "unauthenticated"
        # No secret in anything that is shown.
        authorization = {"Authorization": f"Bearer {PAGE_TOKEN}"}
        for path in ("/metrics", "/config", "/"):
            _, _, shown = place.http_answer(page, "GET", path, headers=authorization)
            assert TOKEN not in shown
            assert PAGE_TOKEN not in shown
        refused = [
            sample.labels[0]
            for sample in exporter._snapshot()[series.REQUESTS]
            if sample.labels[2] == "unauthenticated" and sample.value
        ]
        assert refused == ["grpc", "http"]
    finally:
        exporter.stop()


@pytest.mark.parametrize(
    ("damage", "path", "said"),
    [
        ({"tokens": ["missing"]}, "metrics.tokens[0]", "missing cannot be read"),
        ({"tokens": ["good", "empty"]}, "metrics.tokens[1]", "empty holds no token"),
        ({"tokens": ["spaces"]}, "metrics.tokens[0]", "spaces holds no token"),
        ({"tls": {"certificate": "c", "key": "missing"}}, "metrics.tls.key", "cannot be read"),
        ({"tls": {"certificate": "c", "key": "good"}}, "metrics.tls.key", "is no key in PEM"),
        ({"tls": {"certificate": "c", "key": "locked"}}, "metrics.tls.key", "is no key in PEM"),
        (
            {"tls": {"certificate": "c", "key": "k", "client_ca": "good"}},
            "metrics.tls.client_ca",
            "holds no certificate",
        ),
    ],
)
def test_files_that_cannot_work_are_refused_with_path_and_remedy(
    damage, path, said, tmp_path, server_pair, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for name, content in (("good", "abc"), ("empty", "\n"), ("spaces", "a b")):
        Path(name).write_text(content)
    Path("c").write_bytes(server_pair.certificate.read_bytes())
    Path("k").write_bytes(server_pair.key.read_bytes())
    Path("locked").write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n")
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump({"metrics": {"listen": "127.0.0.1:0", **damage}}))
    with pytest.raises(ConfigError) as caught:
        server.Server(file)
    (problem,) = caught.value.problems
    assert problem.path == path
    assert said in problem.problem
    assert problem.remedy
    assert "abc" not in str(caught.value)


def test_every_token_is_compared_whatever_came_before(tmp_path, monkeypatch):
    files = [tmp_path / str(i) for i in range(3)]
    for i, file in enumerate(files):
        file.write_text(f"token{i}")
    compared = []

    def counted(one, other, compare=access.hmac.compare_digest):
        compared.append((len(one), len(other)))
        return compare(one, other)

    monkeypatch.setattr(access.hmac, "compare_digest", counted)
    gate = Access("x", token_files=files)
    assert gate.allows("Bearer token0")
    assert gate.allows("bearer  token2")
    assert not gate.allows("Bearer " + "x" * 4_000)
    assert compared == [(32, 32)] * 9


def test_the_configuration_shows_paths_only(token_file):
    config = Config.model_validate(
        {"metrics": {"tokens": [str(token_file)]}, "receivers": {"otlp": {"grpc": "[::1]:1"}}}
    )
    shown = config_as_yaml(config)
    assert str(token_file) in shown
    assert TOKEN not in shown
    assert "grpc: '[::1]:1'" in shown, "an address alone stays short"
    assert Config.model_validate(yaml.safe_load(shown)) == config


def test_listeners_read_back_as_they_were_written():
    listener = Listener(
        listen="127.0.0.1:1", tls=Tls(certificate="c", key="k", client_ca="a"), tokens=("t",)
    )
    config = Config.model_validate({"receivers": {"otlp": {"grpc": listener.model_dump()}}})
    assert Config.model_validate(yaml.safe_load(config_as_yaml(config))) == config


@pytest.mark.parametrize("origin", ["https://shop.example.com", "https://evil.example.com"])
def test_pages_of_other_sites_may_send_only_where_their_origin_is_configured(origin):
    for origins in ((), ("https://shop.example.com",)):
        inbox = Inbox()
        web = ThreadedServer(
            receive_http.app(
                inbox, ReceiverCounters(), max_request_bytes=LIMIT_BYTES, origins=origins
            ),
            "127.0.0.1:0",
        )
        port = web.start()
        try:
            ask = {"Origin": origin, "Access-Control-Request-Method": "POST"}
            place = Place(inbox, 0, port, 0, None)
            _, headers, _ = place.http_answer(port, "OPTIONS", "/events", headers=ask)
            assert headers.get("access-control-allow-origin") == (
                origin if origin in origins else None
            )
        finally:
            web.stop(1)


def test_where_tables_keep_their_keys_is_drawn_anew_at_each_start(tmp_path):
    seeds = set()
    for n in range(2):
        folder = tmp_path / str(n)
        config = Config.model_validate({"storage": {"path": str(folder)}})
        log, store, engine = server._opened(config, SteadyClock())
        seeds.add(engine.pipeline.plan.seed)
        store.close()
        log.close()
    assert len(seeds | {KNOWN_SEED}) == 3
