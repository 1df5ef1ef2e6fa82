"""The status page as people see it: in a real Chromium, on a desk and on a phone."""

import threading
import time

import pytest
import uvicorn
from tests import snapshots
from tests.chromium import Chromium
from tests.programs import require

from outcome_exporter import series
from outcome_exporter.model import Sample
from outcome_exporter.web import metrics_app

PHONE, DESK = 360, 1280


@pytest.fixture(scope="module")
def chromium():
    return require("chromium")


@pytest.fixture
def serve():
    """Serves a snapshot; gives the page's address."""
    running = []

    def start(snapshot, config=snapshots.CONFIG):
        app = metrics_app(
            snapshot=lambda: snapshot,
            ready=lambda: None,
            reload=lambda: None,
            config=lambda: config,
            now=lambda: snapshots.NOW,
            explain=lambda _asked: None,
        )
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", access_log=False))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        running.append((server, thread))
        deadline = time.monotonic() + 30
        while not server.started and time.monotonic() < deadline:
            thread.join(0.02)
        return f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"

    yield start
    for server, thread in running:
        server.should_exit = True
        thread.join(30)


@pytest.mark.parametrize("width", [PHONE, DESK])
def test_the_worst_promise_stands_first_and_nothing_is_cut_off(chromium, serve, tmp_path, width):
    address = serve(snapshots.burning().snapshot)
    with Chromium(chromium, tmp_path, width=width) as page:
        page.open(address)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        top = page.evaluate("document.querySelector('h1').innerText").replace("\n", " ")
        assert top.startswith("A customer pays for the cart")
        size = page.evaluate("parseFloat(getComputedStyle(document.body).fontSize)")
        assert size >= 14
        cut = page.evaluate(
            "[...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right >"
            f" {width} + 1).map(e => e.tagName + ': ' + e.innerText)"
        )
        assert cut == []
        assert page.problems == []


def test_the_page_links_to_what_it_is_made_from(chromium, serve, tmp_path):
    address = serve(snapshots.healthy().snapshot)
    with Chromium(chromium, tmp_path, width=DESK) as page:
        page.open(address)
        links = page.evaluate("[...document.querySelectorAll('a')].map(a => a.href)")
        assert {f"{address}metrics", f"{address}config"} <= set(links)
        page.open(f"{address}metrics")
        assert "slo_burn_rate" in page.evaluate("document.body.innerText")
        assert page.problems == []


def test_what_came_from_outside_is_shown_and_never_run(chromium, serve, tmp_path):
    evil = "<img src=x onerror=\"document.title='run'\"><script>document.title='run'</script>"
    cause = Sample(("checkout", evil, evil, evil, "error"), 5.0)
    address = serve({**snapshots.burning().snapshot, series.BLAME: [cause]})
    with Chromium(chromium, tmp_path, width=DESK) as page:
        page.open(address)
        assert "<img src=x" in page.evaluate("document.body.innerText")
        assert page.evaluate("document.title") != "run"
