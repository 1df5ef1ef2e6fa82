"""From the shop's telemetry to the message on a phone, through the real programs.

    shop ──▶ exporter ──▶ Prometheus with the rules ──▶ Alertmanager's example ──▶ chat and mail

What the shop did in the last four minutes is sent at once, with the times at which it happened:
first up to the end of the fault, and once the page has come, the rest, in which all is well again.
Windows of the one SLO that must page are short, so that minutes do. Everything else is as shipped.
"""

import contextlib
import http.server
import json
import os
import queue
import re
import socketserver
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from email import message_from_string, policy
from pathlib import Path

import pytest
import yaml
from tests.fire.process import free_ports
from tests.programs import require

from outcome_exporter.config import Config
from outcome_exporter.demo import settings
from outcome_exporter.demo.faults import Fault
from outcome_exporter.demo.faults import Kind as FaultKind
from outcome_exporter.demo.simulate import simulate
from outcome_exporter.model import Kind
from outcome_exporter.rules import files
from outcome_exporter.units import SECOND

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "alertmanager"
DEADLINE_SECONDS = 120


@pytest.fixture(scope="module")
def programs():
    return {name: require(name) for name in ("prometheus", "alertmanager", "amtool", "promtool")}


# The example -------------------------------------------------------------------------------------


def test_amtool_accepts_the_example(programs):
    done = subprocess.run(
        [programs["amtool"], "check-config", EXAMPLE / "alertmanager.yaml"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "1 templates" in done.stdout


@pytest.mark.parametrize(
    ("labels", "receiver"),
    [
        ({"severity": "page", "owner": "payments"}, "payments-page"),
        ({"severity": "ticket", "owner": "payments"}, "payments-ticket"),
        ({"severity": "page", "owner": "observability"}, "everybody-page"),
        ({"severity": "ticket", "owner": "growth"}, "everybody"),
    ],
)
def test_alerts_go_to_their_owner_by_severity(programs, labels, receiver):
    done = subprocess.run(
        [
            programs["amtool"],
            "config",
            "routes",
            "test",
            f"--config.file={EXAMPLE / 'alertmanager.yaml'}",
            *(f"{name}={value}" for name, value in labels.items()),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.strip() == receiver


# Programs ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def running(command, log, **options):
    """A program until the block ends; its output in a file."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, **options)
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_for(condition, what, seconds=DEADLINE_SECONDS):
    """What a condition returns once it is true; OSErrors count as not yet."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            found = condition()
            if found:
                return found
        threading.Event().wait(0.1)
    pytest.fail(f"no {what} within {seconds} s")


def get(url):
    with urllib.request.urlopen(url, timeout=10) as response:
        return response.read().decode()


def post(url, body, content_type):
    request = urllib.request.Request(url, body, {"Content-Type": content_type})
    with urllib.request.urlopen(request, timeout=30) as response:
        assert response.status in {200, 202}


class Chat:
    """Takes what Alertmanager posts to a chat."""

    def __init__(self):
        self.messages = queue.Queue()
        chat = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                chat.messages.put(json.loads(body))
                self.send_response(200)
                self.send_header("content-length", "2")
                self.end_headers()
                self.wfile.write(b"ok")

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server.server_port}/chat"


class Mail:
    """Takes mail over SMTP."""

    def __init__(self):
        self.messages = queue.Queue()
        mail = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self):
                self.wfile.write(b"220 test\r\n")
                while line := self.rfile.readline():
                    verb = line[:4].upper()
                    if verb == b"DATA":
                        self.wfile.write(b"354 go on\r\n")
                        lines = []
                        while (text := self.rfile.readline()) not in (b".\r\n", b""):
                            lines.append(text.removeprefix(b"."))
                        mail.messages.put(b"".join(lines).decode())
                    self.wfile.write(b"221 bye\r\n" if verb == b"QUIT" else b"250 fine\r\n")

        self.server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True

    @property
    def address(self):
        return f"127.0.0.1:{self.server.server_address[1]}"


@contextlib.contextmanager
def serving(receiver):
    thread = threading.Thread(target=receiver.server.serve_forever, daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        receiver.server.shutdown()
        receiver.server.server_close()


class World:
    """All programs, connected."""

    def __init__(self, folder, programs, stack):
        self.folder = folder
        self.chat = stack.enter_context(serving(Chat()))
        self.mail = stack.enter_context(serving(Mail()))
        self.config = self._configure()
        prometheus, manager_port = free_ports(2)
        self.prometheus = f"http://127.0.0.1:{prometheus}"
        manager = f"127.0.0.1:{manager_port}"
        stack.enter_context(
            running(
                [sys.executable, "-m", "outcome_exporter", "serve", "-c", "shop.yaml"],
                folder / "exporter.log",
                cwd=folder,
                env=os.environ,
            )
        )
        stack.enter_context(
            running(
                [
                    programs["alertmanager"],
                    f"--config.file={self._alertmanager()}",
                    f"--storage.path={folder / 'alertmanager'}",
                    f"--web.listen-address={manager}",
                    "--cluster.listen-address=",
                ],
                folder / "alertmanager.log",
            )
        )
        self.exporter, self.receiver = wait_for(self._exporter_ports, "exporter", 300)
        wait_for(lambda: get(f"http://{self.exporter}/readyz"), "ready exporter")
        stack.enter_context(
            running(
                [
                    programs["prometheus"],
                    f"--config.file={self._prometheus(manager)}",
                    f"--storage.tsdb.path={folder / 'prometheus'}",
                    f"--web.listen-address={self.prometheus.removeprefix('http://')}",
                ],
                folder / "prometheus.log",
            )
        )
        # What is counted before the first scrape is no increase.
        wait_for(lambda: self.query("slo_info and on () outcome_attempts_total"), "scraped series")

    def _configure(self):
        values = settings.read()
        values["receivers"]["otlp"] = {"grpc": "127.0.0.1:0", "http": "127.0.0.1:0"}
        values["metrics"] = {"listen": "127.0.0.1:0"}
        values["exposition"] = {"birth": "2s"}
        values["alerts"] = {"keep_firing_for": "0s", "value_at_risk": {"USD": 10_000_000}}
        checkout = values["journeys"][0]
        # A burn rate of 15, as on a tier of an hour, but in ten minutes and eight.
        share = 100 * 15 * 10 / (28 * 24 * 60)
        tier = {"severity": "page", "long_window": "10m", "short_window": "8m", "budget": share}
        checkout["slos"][0]["alerts"] = {"tiers": [tier]}
        (self.folder / "shop.yaml").write_text(yaml.safe_dump(values))
        return Config.model_validate(values)

    def _alertmanager(self):
        values = yaml.safe_load((EXAMPLE / "alertmanager.yaml").read_text())
        values["global"] |= {
            "slack_api_url": self.chat.url,
            "smtp_smarthost": self.mail.address,
            "smtp_require_tls": False,
        }
        values["templates"] = [str(EXAMPLE / "outcomes.tmpl")]
        values["route"] |= {"group_wait": "1s", "group_interval": "1s"}
        path = self.folder / "alertmanager.yaml"
        path.write_text(yaml.safe_dump(values))
        return path

    def _prometheus(self, manager):
        files.write(files.rules(self.config), self.folder / "rules")
        values = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(self.folder / "rules" / "*.yaml")],
            "scrape_configs": [
                {
                    "job_name": "outcome-exporter",
                    "static_configs": [{"targets": [self.exporter]}],
                }
            ],
            "alerting": {"alertmanagers": [{"static_configs": [{"targets": [manager]}]}]},
        }
        path = self.folder / "prometheus.yaml"
        path.write_text(yaml.safe_dump(values))
        return path

    def _exporter_ports(self):
        said = (self.folder / "exporter.log").read_text()
        found = re.search(
            r"page on port (\d+)\n.*OTLP on port \d+ \(gRPC\) and (\d+) \(HTTP\)", said
        )
        return found and (f"127.0.0.1:{found[1]}", f"127.0.0.1:{found[2]}")

    def query(self, promql):
        url = f"{self.prometheus}/api/v1/query?query={urllib.parse.quote(promql)}"
        return json.loads(get(url))["data"]["result"]

    def pages(self):
        """Names and journeys of the alerts that fire and wake somebody."""
        found = self.query('ALERTS{severity="page",alertstate="firing"}')
        return {(r["metric"]["alertname"], r["metric"].get("journey")) for r in found}

    def send(self, sent):
        """Sends requests of the shop, as fast as they are taken."""
        for _, kind, payload in sent:
            if kind is Kind.TRACES:
                post(f"http://{self.receiver}/v1/traces", payload, "application/x-protobuf")
            else:
                form = "application/cloudevents-batch+json"
                post(f"http://{self.receiver}/events", payload, form)


@pytest.fixture
def world(tmp_path, programs):
    with contextlib.ExitStack() as stack:
        yield World(tmp_path, programs, stack)


SHOP_SECONDS = 240
FAULT = Fault(FaultKind.PAYMENT_ERRORS, start=30, end=60, share=0.6)
"""Of all checkouts 36 % are bad up to its end, and 11 % once all is told; 15 % page."""


@pytest.mark.slow
def test_the_payment_faults_page_arrives_and_resolves_and_no_other_page_does(world):
    start = time.time_ns() - (SHOP_SECONDS + 5) * SECOND
    sent = list(simulate(seed=1, seconds=SHOP_SECONDS, faults=[FAULT], start_unix_nano=start))
    recovery = start + round(FAULT.end + 5) * SECOND
    world.send(record for record in sent if record[0] <= recovery)
    page = world.chat.messages.get(timeout=DEADLINE_SECONDS)
    while page["channel"] != "#payments-on-call":  # tickets may come first
        page = world.chat.messages.get(timeout=DEADLINE_SECONDS)
    (attachment,) = page["attachments"]
    title, text = attachment["title"], attachment["text"]
    assert re.fullmatch(
        r"A customer pays for the cart: [\d.]+ % of attempts failed checkout-success in the "
        r"last 10m, \d+× what its error budget allows",  # noqa: RUF001
        title,
    )
    assert re.search(r"In the last hour \d+ of \d+ attempts failed checkout-success\.", text)
    # What is lost for good is known once nobody can try again; the page does not wait for it.
    assert re.search(r"\d+ users were hit\. USD \d+ at risk[.,]", text)
    assert re.search(r"Error budget: spent|Error budget: [\d.]+ % left", text)
    assert attachment["color"] == "danger"
    assert "Owner: payments" in text
    # All was sent at once, so the page may be there before the next verdict on five minutes.
    assert re.search(
        r"Cause: [\d.]+ % in the last (5m|1h) blamed on payment / POST /charge 1\.8\.2, errors, "
        r"for \d",
        text,
    )
    assert text.count("blamed on") == 1

    mail = message_from_string(
        world.mail.messages.get(timeout=DEADLINE_SECONDS), policy=policy.default
    )
    assert mail["To"] == "payments-on-call@example.com"
    assert mail["Subject"] == title
    html = mail.get_body(("html",)).get_content()
    assert "attempts failed checkout-success" in html
    assert world.pages() == {("OutcomeBudgetBurnsFast", "checkout")}

    world.send(record for record in sent if record[0] > recovery)
    resolved = world.chat.messages.get(timeout=DEADLINE_SECONDS)
    while resolved["channel"] != "#payments-on-call":
        resolved = world.chat.messages.get(timeout=DEADLINE_SECONDS)
    (attachment,) = resolved["attachments"]
    assert attachment["title"].startswith("Recovered: A customer pays for the cart: ")
    assert attachment["color"] == "good"
    assert world.pages() == set()
