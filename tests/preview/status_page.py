"""A picture of the status page while the demo's payment fails, as the exporter would show it then.

.venv/bin/python -m tests.preview.status_page docs/status-page.png
"""

import base64
import sys
import tempfile
from pathlib import Path

from tests.chromium import Chromium
from tests.programs import require

from outcome_exporter import series
from outcome_exporter.demo import settings
from outcome_exporter.demo.faults import SCRIPT
from outcome_exporter.demo.simulate import START_UNIX_NANO, simulate
from outcome_exporter.model import Encoding, Record, Sample
from outcome_exporter.page import render_page
from outcome_exporter.pipeline import Pipeline
from outcome_exporter.snapshot import snapshot
from outcome_exporter.units import SECOND

WIDTH, HEIGHT = 1000, 1100


def rendered() -> str:
    """The page just before payment is repaired."""
    config = settings.load()
    pipeline = Pipeline(config)
    now = START_UNIX_NANO + round(SCRIPT[0].end) * SECOND
    for offset, (arrival, kind, payload) in enumerate(simulate()):
        if arrival > now:
            break
        pipeline.ingest(Record(offset, arrival, kind, Encoding.NONE, payload))
    pipeline.advance(now)
    # A checkpoint is the server's, which does not run here.
    shown = {**snapshot(pipeline), series.CHECKPOINT_AGE: [Sample((), now / SECOND - 4)]}
    return render_page(config, shown, now, refresh=False)


def main() -> None:
    """Draws it, cut to a height that a README can show."""
    picture = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as work:
        html = Path(work) / "page.html"
        html.write_text(rendered(), encoding="utf-8")
        program, profile = require("chromium"), Path(work) / "profile"
        with Chromium(program, profile, width=WIDTH, height=HEIGHT) as page:
            page.call("Emulation.setScrollbarsHidden", hidden=True)
            page.open(html.as_uri())
            taken = page.call("Page.captureScreenshot", format="png")
            assert page.problems == []
    picture.write_bytes(base64.b64decode(taken["data"]))
    sys.stdout.write(f"{picture}: {picture.stat().st_size / 1000:.0f} kB\n")


if __name__ == "__main__":
    main()
