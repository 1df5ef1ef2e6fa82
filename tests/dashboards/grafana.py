"""What Grafana does with a dashboard before it draws: find the queries, fill in the variables.

Only as much of it as these dashboards use. `Prometheus` answers the queries.
"""

import json
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

SCRAPE_SECONDS = 15
POINTS = 1000
"""Width of a panel in pixels, about, which is how many points Grafana asks for at most."""
_STEPS = {
    10: 12.5, 15: 17.5, 20: 25, 30: 45, 60: 90, 120: 210, 300: 450, 600: 750, 900: 1_050,
    1_200: 1_500, 1_800: 2_700, 3_600: 5_400, 7_200: 9_000, 10_800: 16_200, 21_600: 32_400,
    43_200: 86_400, 86_400: 604_800,
}  # fmt: skip
"""What Grafana makes of an interval: round numbers of seconds, each for what lies below a limit."""


@dataclass(frozen=True)
class Asked:
    """One query of a dashboard, as written."""

    where: str
    """Panel, variable or annotation, and which of its queries."""
    expr: str
    instant: bool
    panel: dict[str, Any] | None = None
    ref: str = ""
    legend: str = ""


@dataclass(frozen=True)
class Range:
    """What one looks at, in Unix seconds."""

    start: float
    end: float
    scrape: int = SCRAPE_SECONDS

    @property
    def seconds(self) -> int:
        return round(self.end - self.start)

    def step(self, panel: dict[str, Any] | None) -> int:
        """`$__interval`: the range by the points, made a round number, not below scrapes."""
        points = (panel or {}).get("maxDataPoints") or POINTS
        raw = self.seconds / points
        step = next(step for step, below in _STEPS.items() if raw < below)
        return max(step, self.scrape)


def panels(board: dict[str, Any]) -> list[dict[str, Any]]:
    """Panels without the headings."""
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def queries(board: dict[str, Any]) -> Iterator[Asked]:
    """Every query of every panel and annotation."""
    for panel in panels(board):
        for target in panel["targets"]:
            where = f"{panel['title']} [{target['refId']}]"
            yield Asked(
                where,
                target["expr"],
                target["instant"],
                panel,
                target["refId"],
                target["legendFormat"],
            )
    for annotation in board["annotations"].get("list", []):
        yield Asked(f"annotation {annotation['name']}", annotation["expr"], instant=False)


def filled_in(expr: str, values: dict[str, list[str]], looked: Range, step: int) -> str:
    """A query with its variables filled in as Grafana does it for Prometheus."""
    built_in = {
        "__rate_interval": f"{max(step + looked.scrape, 4 * looked.scrape)}s",
        "__interval": f"{step}s",
        "__range": f"{looked.seconds}s",
    }

    def replace(match: re.Match[str]) -> str:
        name = match[1]
        if name in built_in:
            return built_in[name]
        if name.isdecimal():
            return match[0]  # of label_replace; Grafana leaves what is no variable
        chosen = values[name]
        if len(chosen) == 1:
            return chosen[0]
        return "(" + "|".join(map(_escaped, chosen)) + ")"

    return re.sub(r"\$(\w+)", replace, expr)


def _escaped(value: str) -> str:
    """For a regular expression within quotes, as Grafana's Prometheus data source does it."""
    return re.sub(r"[$^*{}\[\]'+?.()|]", r"\\\\\g<0>", value.replace("\\", "\\" * 4))


class Failed(Exception):
    """Prometheus refused a query."""


class Prometheus:
    """The HTTP API of one."""

    def __init__(self, address: str) -> None:
        self.address = address

    def get(self, path: str, **parameters: str) -> Any:
        data = urllib.parse.urlencode(parameters).encode()
        url = f"{self.address}/api/v1/{path}"
        request = urllib.request.Request(url, data=data)
        if path.startswith("label/"):
            request = urllib.request.Request(f"{url}?{data.decode()}")
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise Failed(f"{parameters}: {error.read().decode()}") from None

    def variables(self, board: dict[str, Any], looked: Range, **chosen: str) -> dict[str, Any]:
        """The values of a dashboard's variables: as chosen, else all or the first one."""
        values: dict[str, list[str]] = {}
        for variable in board["templating"]["list"]:
            name = variable["name"]
            if variable["type"] == "datasource":
                values[name] = ["prometheus"]
                continue
            found = self.options(variable, values, looked)
            if name in chosen:
                assert chosen[name] in found, (name, chosen, found)
                values[name] = [chosen[name]]
            elif variable.get("allValue"):
                values[name] = [variable["allValue"]]
            else:
                values[name] = found if variable["multi"] else found[:1]
        return values

    def options(
        self, variable: dict[str, Any], values: dict[str, list[str]], looked: Range
    ) -> list[str]:
        """What a variable can be chosen from: values of a label, or what a regex takes of a text
        for each series that answers a query."""
        query = variable["query"]["query"]
        asked = re.fullmatch(r"query_result\((.+)\)", query)
        if not asked:
            return self.label_values(query, values, looked)
        expr = filled_in(asked[1], values, looked, looked.scrape)
        answer = self.get("query", query=expr, time=str(looked.end))["result"]
        texts = (
            "{" + ",".join(f'{name}="{value}"' for name, value in series["metric"].items()) + "}"
            for series in answer
        )
        found = (re.search(variable["regex"].strip("/"), text) for text in texts)
        return sorted({match[1] for match in found if match})

    def label_values(self, query: str, values: dict[str, list[str]], looked: Range) -> list[str]:
        match = re.fullmatch(r"label_values\((.+), (\w+)\)", query)
        assert match, query
        selector = filled_in(match[1], values, looked, looked.scrape)
        found = self.get(
            f"label/{match[2]}/values",
            **{"match[]": selector, "start": str(looked.start), "end": str(looked.end)},
        )
        return sorted(value for value in found if value)

    def ask(self, asked: Asked, values: dict[str, list[str]], looked: Range) -> list[Any]:
        """The series that answer a query."""
        step = looked.step(asked.panel)
        expr = filled_in(asked.expr, values, looked, step)
        if asked.instant:
            return self.get("query", query=expr, time=str(looked.end))["result"]
        # Grafana aligns the range to the step.
        start = looked.start // step * step
        end = looked.end // step * step
        return self.get("query_range", query=expr, start=str(start), end=str(end), step=str(step))[
            "result"
        ]
