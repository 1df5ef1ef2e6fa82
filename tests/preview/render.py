"""Pictures of the dashboards: their own JSON, real answers of a real Prometheus, the demo's shop.

    .venv/bin/python -m tests.preview.render docs/dashboards

Takes a minute or two. Not Grafana; see `drawing`.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.dashboards import shop
from tests.dashboards.grafana import Prometheus, Range
from tests.dashboards.tsdb import prometheus
from tests.preview import drawing
from tests.programs import require

from outcome_exporter import dashboards

SECONDS = 2_700
"""The demo's script, stretched: five minutes would be too short for a picture."""
EVERY = 15
CHOSEN = {
    "outcome-journey.json": {"journey": "checkout", "slo": "checkout-success"},
    "outcome-service.json": {"service": "inventory"},
}


def draw(found: Prometheus, looked: Range, folder: Path) -> None:
    """A picture for each dashboard."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in dashboards.generate(shop.CONFIG).items():
        page, height = drawing.page(json.loads(text), found, looked, **CHOSEN.get(name, {}))
        picture = folder / name.replace(".json", ".png")
        with tempfile.TemporaryDirectory() as work:
            html = Path(work) / "page.html"
            html.write_text(page, encoding="utf-8")
            subprocess.run(
                [
                    require("chromium"),
                    "--headless",
                    "--no-sandbox",
                    "--disable-gpu",
                    "--hide-scrollbars",
                    # Small enough for a README.
                    "--force-device-scale-factor=0.66",
                    f"--user-data-dir={work}/profile",
                    f"--window-size={drawing.WIDTH},{height}",
                    f"--screenshot={picture}",
                    html.as_uri(),
                ],
                check=True,
                capture_output=True,
            )
        sys.stdout.write(f"{picture}: {picture.stat().st_size / 1000:.0f} kB\n")


def main() -> None:
    """Runs the shop and draws."""
    history = shop.run(seconds=SECONDS, every=EVERY)
    with (
        tempfile.TemporaryDirectory() as work,
        prometheus(history, Path(work), every=EVERY) as found,
    ):
        # Without the minute in which the shop opens and the one after it has closed.
        draw(found, Range(history.start + 60, history.start + SECONDS), Path(sys.argv[1]))


if __name__ == "__main__":
    main()
