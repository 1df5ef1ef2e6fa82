"""Draws a dashboard's JSON with the answers of a real Prometheus as one HTML page.

Enough of Grafana to see what one gets: the grid, the kinds of panels these dashboards use, their
transformations, units, thresholds, mappings, overrides and legends. It is not Grafana: fonts,
colours of the palette and the choice of ticks differ.
"""

import math
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from tests.dashboards.grafana import Asked, Prometheus, Range, queries

WIDTH = 1400
_CELL = WIDTH / 24
_ROW = 34
_GAP = 6
_PALETTE = (
    "#7EB26D", "#EAB839", "#6ED0E0", "#EF843C", "#E24D42", "#1F78C1", "#BA43A9", "#705DA0",
    "#508642", "#CCA300",
)  # fmt: skip
_COLOURS = {
    "green": "#73BF69",
    "red": "#F2495C",
    "semi-dark-red": "#E02F44",
    "orange": "#FF9830",
    "yellow": "#FADE2A",
    "purple": "#B877D9",
    "blue": "#5794F2",
    "text": "#CCCCDC",
    "transparent": "transparent",
}
_STYLE = """
* { box-sizing: border-box; margin: 0 }
body { background: #111217; color: #ccccdc; font: 13px/1.35 Inter, "DejaVu Sans", sans-serif;
  width: WIDTHpx; position: relative; padding: 0 }
header { padding: 10px 12px; display: flex; gap: 10px; align-items: center; height: 48px }
header b { font-size: 17px; margin-right: 8px }
header span { background: #181b1f; border: 1px solid #2c3235; padding: 3px 8px; color: #9fa7b3;
  white-space: nowrap; overflow: hidden; text-overflow: ellipsis; max-width: 330px }
header span i { color: #ccccdc; font-style: normal }
h2 { position: absolute; font-size: 14px; padding: 8px 12px }
section { position: absolute; background: #181b1f; border: 1px solid #25282d; padding: 7px 9px;
  overflow: hidden; border-radius: 2px }
h3 { font-size: 12.5px; font-weight: 500; white-space: nowrap; overflow: hidden;
  text-overflow: ellipsis; margin-bottom: 4px }
.stats { display: flex; height: calc(100% - 22px); align-items: center; justify-content: center;
  text-align: center; gap: 6px }
.stats div { flex: 1 } .stats b { font-size: 27px; font-weight: 500; display: block }
.stats small { color: #9fa7b3; white-space: nowrap }
table { border-collapse: collapse; width: 100%; font-size: 12px }
th { text-align: left; color: #6e9fff; font-weight: 500; padding: 4px 6px; white-space: nowrap;
  border-bottom: 1px solid #2c3235 }
td { padding: 5px 6px; border-bottom: 1px solid #22252b; white-space: nowrap; max-width: 240px;
  overflow: hidden; text-overflow: ellipsis }
.n { text-align: right } .a { color: #6e9fff }
.bar { background: #2c3235; height: 12px; position: relative }
.bar i { position: absolute; left: 0; top: 0; bottom: 0 }
.legend { font-size: 11px; color: #b4b7c2; max-height: 34px; overflow: hidden }
.legend i { display: inline-block; width: 12px; height: 3px; margin: 0 4px 3px 8px }
.nothing { color: #767d87; text-align: center; padding-top: 24px }
text { fill: #8e8e99; font-size: 10px }
.ranked { display: grid; grid-template-columns: max-content 1fr 50px; gap: 7px 10px;
  font-size: 12px; align-items: center }
"""


@dataclass
class Frame:
    """What a query brought: its name, labels and points."""

    name: str
    labels: Mapping[str, str]
    points: list[tuple[float, float]]
    ref: str

    @property
    def last(self) -> float:
        return self.points[-1][1]


def page(
    board: dict[str, Any], prometheus: Prometheus, looked: Range, **chosen: str
) -> tuple[str, int]:
    """The page and its height in pixels."""
    values = prometheus.variables(board, looked, **chosen)
    answers: dict[tuple[int, str], list[Frame]] = {}
    marks: list[tuple[float, str]] = []
    for asked in queries(board):
        frames = _frames(asked, prometheus.ask(asked, values, looked), values)
        if asked.panel is None:
            marks += [(frame.last / 1000, frame.labels.get("version", "")) for frame in frames]
        else:
            answers[asked.panel["id"], asked.ref] = frames
    top = 52
    parts = [_header(board, values, looked)]
    height = 0
    for panel in board["panels"]:
        place = panel["gridPos"]
        box = (
            place["x"] * _CELL + _GAP / 2,
            top + place["y"] * _ROW + _GAP / 2,
            place["w"] * _CELL - _GAP,
            place["h"] * _ROW - _GAP,
        )
        height = max(height, top + (place["y"] + place["h"]) * _ROW)
        title = _worded(panel["title"], values)
        at = f"left:{box[0]:.0f}px;top:{box[1]:.0f}px;width:{box[2]:.0f}px;height:{box[3]:.0f}px"
        if panel["type"] == "row":
            parts.append(f'<h2 style="{at}">&#9662; {escape(title)}</h2>')
            continue
        frames = [f for t in panel["targets"] for f in answers[panel["id"], t["refId"]]]
        body = _body(panel, frames, box[2] - 20, box[3] - 40, looked, marks)
        parts.append(f'<section style="{at}"><h3>{escape(title)}</h3>{body}</section>')
    style = _STYLE.replace("WIDTH", str(WIDTH))
    return (
        (
            f'<!doctype html><meta charset="utf-8"><style>{style}</style>'
            f'<body style="height:{height + 6}px">{"".join(parts)}'
        ),
        height + 6,
    )


def _header(board: dict[str, Any], values: Mapping[str, list[str]], looked: Range) -> str:
    chips = []
    for variable in board["templating"]["list"]:
        if variable.get("hide"):
            continue
        value = values[variable["name"]]
        every = len(value) > 1 or value == [variable.get("allValue")]
        shown = "All" if variable.get("multi") and every else ", ".join(value)
        chips.append(f"<span>{escape(variable['label'])} <i>{escape(shown)}</i></span>")
    start, end = (time.strftime("%H:%M", time.gmtime(at)) for at in (looked.start, looked.end))
    chips.append(f"<span>{start} to {end} UTC</span>")
    return f"<header><b>{escape(board['title'])}</b>{''.join(chips)}</header>"


def _worded(text: str, values: Mapping[str, list[str]]) -> str:
    return re.sub(r"\$(\w+)", lambda match: " + ".join(values.get(match[1], [match[0]])), text)


def _frames(asked: Asked, answer: list[Any], values: Mapping[str, list[str]]) -> list[Frame]:
    frames = []
    for series in answer:
        labels = series["metric"]
        points = series.get("values") or [series["value"]]
        name = re.sub(r"\{\{(\w+)\}\}", lambda m, at=labels: at.get(m[1], ""), asked.legend)
        if asked.legend == "__auto":
            name = ", ".join(labels.values()) or "Value"
        frames.append(
            Frame(
                _worded(name, values), labels, [(float(t), float(v)) for t, v in points], asked.ref
            )
        )
    return frames


def _body(
    panel: dict[str, Any],
    frames: list[Frame],
    width: float,
    height: float,
    looked: Range,
    marks: Sequence[tuple[float, str]],
) -> str:
    if not frames:
        words = panel["fieldConfig"]["defaults"]["noValue"]
        return f'<p class="nothing">{escape(words)}</p>'
    match panel["type"]:
        case "stat":
            return _stats(panel, frames)
        case "timeseries":
            return _lines(panel, frames, width, height, looked, marks)
        case "state-timeline":
            return _timeline(panel, frames, width, height, looked)
        case "table":
            return _table(panel, frames)
        case "bargauge":
            return _ranking(panel, frames)
    raise AssertionError(panel["type"])


# Fields: what applies to a value


def _field(panel: dict[str, Any], name: str) -> dict[str, Any]:
    field = dict(panel["fieldConfig"]["defaults"])
    for override in panel["fieldConfig"]["overrides"]:
        how, wanted = override["matcher"]["id"], override["matcher"]["options"]
        fits = wanted == name if how == "byName" else re.search(wanted.strip("/"), name)
        if fits:
            field.update({given["id"]: given["value"] for given in override["properties"]})
    return field


def _colour(name: str) -> str:
    return _COLOURS.get(name, name)


def _threshold_colour(field: Mapping[str, Any], value: float) -> str:
    colour = "text"
    for step in field["thresholds"]["steps"]:
        if step["value"] is None or value >= step["value"]:
            colour = step["color"]
    return _colour(colour)


def _shown(field: Mapping[str, Any], value: float | str) -> tuple[str, str]:
    """Text and colour of a value."""
    for mapping in field.get("mappings") or []:
        key = f"{value:g}" if isinstance(value, float) else value
        if key in mapping["options"]:
            result = mapping["options"][key]
            return result["text"], _colour(result.get("color", "text"))
    if isinstance(value, str):
        return value, _colour("text")
    return formatted(value, field["unit"], field.get("decimals")), _threshold_colour(field, value)


def formatted(value: float, unit: str, decimals: int | None) -> str:
    """A number in a unit of Grafana's."""
    assert math.isfinite(value), "a panel would show NaN or Inf"
    kind, _, given = unit.partition(":")
    if kind in {"prefix", "suffix"}:
        digits = _digits(value, decimals)
        return given + digits if kind == "prefix" else digits + given
    if unit.startswith("currency"):
        sign = {"currencyUSD": "$", "currencyEUR": "€"}[unit]
        return sign + _scaled(value, 1000, ("", "K", "M", "B"), decimals, glue="")
    write = {
        "percentunit": lambda: f"{_digits(value * 100, 2 if decimals is None else decimals)}%",
        "s": lambda: _duration(value, decimals),
        "bytes": lambda: _scaled(value, 1024, ("B", "KiB", "MiB", "GiB"), decimals),
        "Bps": lambda: f"{_scaled(value, 1024, ('B', 'KiB', 'MiB', 'GiB'), decimals)}/s",
        "locale": lambda: _digits(value, decimals),
        "cps": lambda: f"{_digits(value, decimals)} c/s",
        "reqps": lambda: f"{_digits(value, decimals)} req/s",
        "cores": lambda: f"{_digits(value, decimals)} cores",
    }
    return write[unit]()


def _digits(value: float, decimals: int | None) -> str:
    if decimals is None:
        decimals = 0 if value == round(value) else max(0, 2 - len(str(int(abs(value)))) + 1)
    return f"{value:,.{decimals}f}"


def _scaled(
    value: float, base: int, units: Sequence[str], decimals: int | None, glue: str = " "
) -> str:
    place = 0
    while abs(value) >= base and place < len(units) - 1:
        value, place = value / base, place + 1
    return f"{_digits(value, decimals)}{glue}{units[place]}"


def _duration(value: float, decimals: int | None) -> str:
    for size, name in ((86_400 * 7, "weeks"), (86_400, "days"), (3600, "hours"), (60, "mins")):
        if abs(value) >= size:
            return f"{_digits(value / size, 1 if decimals is None else decimals)} {name}"
    if value and abs(value) < 0.001:
        return f"{_digits(value * 1e6, decimals)} µs"
    if value and abs(value) < 1:
        return f"{_digits(value * 1e3, decimals)} ms"
    return f"{_digits(value, decimals)} s"


# Kinds of panels


def _stats(panel: dict[str, Any], frames: Iterable[Frame]) -> str:
    frames = list(frames)
    named = panel["options"]["textMode"] == "value_and_name" or len(frames) > 1
    cells = []
    for frame in frames:
        text, colour = _shown(_field(panel, frame.name), frame.last)
        label = f"<small>{escape(frame.name)}</small>" if named else ""
        cells.append(f'<div><b style="color:{colour}">{escape(text)}</b>{label}</div>')
    return f'<div class="stats">{"".join(cells)}</div>'


def _ranking(panel: dict[str, Any], frames: Sequence[Frame]) -> str:
    cells = []
    most = panel["fieldConfig"]["defaults"].get("max") or max(frame.last for frame in frames)
    for frame in frames:
        text, colour = _shown(_field(panel, frame.name), frame.last)
        cells.append(
            f"<span>{escape(frame.name)}</span>"
            f'<div class="bar"><i style="width:{frame.last / most:.0%};background:{colour}"></i>'
            f'</div><b style="color:{colour}">{escape(text)}</b>'
        )
    return f'<div class="ranked">{"".join(cells)}</div>'


def _rows(panel: dict[str, Any], frames: Sequence[Frame]) -> list[dict[str, Any]]:
    """The table after its transformations."""
    several = len(panel["targets"]) > 1
    rows: list[dict[str, Any]] = []
    shared = set.intersection(*(set(frame.labels) for frame in frames))
    for frame in frames:
        cells = {**frame.labels, f"Value #{frame.ref}" if several else "Value": frame.last}
        # `merge`: rows whose shared fields are equal become one, if nothing else contradicts.
        for row in rows:
            if all(row[k] == cells[k] for k in shared) and all(
                row.get(k, v) == v for k, v in cells.items()
            ):
                row.update(cells)
                break
        else:
            rows.append(cells)
    for transformation in panel["transformations"]:
        options = transformation["options"]
        match transformation["id"]:
            case "groupingToMatrix":
                across = dict.fromkeys(row[options["columnField"]] for row in rows)
                down = dict.fromkeys(row[options["rowField"]] for row in rows)
                found = {
                    (row[options["rowField"]], row[options["columnField"]]): row["Value"]
                    for row in rows
                }
                corner = f"{options['rowField']}\\{options['columnField']}"
                rows = [
                    {corner: name, **{c: found[name, c] for c in across if (name, c) in found}}
                    for name in down
                ]
            case "organize":
                index, names = options["indexByName"], options["renameByName"]
                order = sorted({n for row in rows for n in row}, key=lambda n: index.get(n, 99))
                shown = [name for name in order if not options["excludeByName"].get(name)]
                rows = [{names.get(n, n): row.get(n) for n in shown} for row in rows]
            case "sortBy":
                (by,) = options["sort"]
                rows.sort(key=lambda row: _sortable(row.get(by["field"])), reverse=by["desc"])
    return rows


def _sortable(value: float | None) -> float:
    return -math.inf if value is None else value


def _table(panel: dict[str, Any], frames: Sequence[Frame]) -> str:
    rows = _rows(panel, frames)
    columns = list(rows[0])
    numbers = {
        c
        for c in columns
        for r in rows
        if isinstance(r.get(c), float) and _field(panel, c).get("custom.align") != "left"
    }
    head = "".join(f"<th{' class=n' if c in numbers else ''}>{escape(c)}" for c in columns)
    body = "".join(
        f"<tr>{''.join(_cell(_field(panel, c), row.get(c), number=c in numbers) for c in columns)}"
        for row in rows
    )
    return f"<table><tr>{head}{body}</table>"


def _cell(field: Mapping[str, Any], value: float | str | None, *, number: bool) -> str:
    if value is None or value == "":
        return "<td>"
    text, colour = _shown(field, value)
    options = field.get("custom.cellOptions") or (field.get("custom") or {}).get("cellOptions", {})
    kind = options.get("type") if isinstance(value, float) else None
    if kind == "gauge":
        share = min(max(float(value), 0), 1)
        return (
            f'<td><div class="bar"><i style="width:{share:.0%};background:#FF9830"></i></div>'
            f'<small class="n">{escape(text)}</small>'
        )
    link = ' class="a"' if field.get("links") else ""
    link = ' class="n"' if number else link
    if kind == "color-background" and colour != "transparent":
        dark = colour != _COLOURS["text"]
        return f'<td class="n" style="background:{colour};color:{"#111" if dark else ""}">{text}'
    style = f' style="color:{colour}"' if kind == "color-text" else ""
    return f"<td{link}{style}>{escape(text)}"


def _timeline(
    panel: dict[str, Any], frames: Sequence[Frame], width: float, height: float, looked: Range
) -> str:
    names = max(len(frame.name) for frame in frames) * 6.5 + 8
    row = min((height - 30) / len(frames), 44)
    scale = (width - names) / looked.seconds
    step = looked.step(panel)
    parts, seen = [], {}
    for place, frame in enumerate(frames):
        y = place * row
        parts.append(f'<text x="0" y="{y + row / 2 + 3:.0f}">{escape(frame.name)}</text>')
        for at, value in frame.points:
            text, colour = _shown(_field(panel, frame.name), value)
            seen[text] = colour
            # What began before the range is seen from its start on.
            since, until = max(at, looked.start), min(at + step, looked.end)
            x, wide = names + (since - looked.start) * scale, max(until - since, 0) * scale
            parts.append(
                f'<rect x="{x:.1f}" y="{y + 3:.1f}" width="{wide + 0.6:.1f}" '
                f'height="{row - 6:.1f}" fill="{colour}" opacity=".8"/>'
            )
    parts += _time_ticks(names, width, height - 16, looked)
    return _svg(width, height, parts) + _legend(seen.items())


def _time_ticks(left: float, width: float, y: float, looked: Range) -> list[str]:
    parts = []
    count = max(2, min(6, int((width - left) / 45)))
    for number in range(1, count):
        at = looked.start + looked.seconds * number / count
        x = left + (width - left) * number / count
        text = time.strftime("%H:%M", time.gmtime(at))
        parts.append(f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="middle">{text}</text>')
    return parts


def _svg(width: float, height: float, parts: Iterable[str]) -> str:
    return f'<svg width="{width:.0f}" height="{height - 14:.0f}">{"".join(parts)}</svg>'


def _legend(entries: Iterable[tuple[str, str]]) -> str:
    shown = "".join(
        f'<span><i style="background:{colour}"></i>{escape(name)}</span>'
        for name, colour in entries
    )
    return f'<div class="legend">{shown}</div>'


@dataclass
class Scale:
    """Where times and values lie in a picture."""

    looked: Range
    width: float
    bottom: float
    low: float
    high: float
    log: bool
    left: float = 58.0

    def x(self, at: float) -> float:
        share = (at - self.looked.start) / self.looked.seconds
        return self.left + share * (self.width - self.left)

    def y(self, value: float) -> float:
        value = math.log10(max(value, 1e-3)) if self.log else value
        return 6 + (self.bottom - 6) * (1 - (value - self.low) / (self.high - self.low))

    def across(self, value: float, stroke: str) -> str:
        y = self.y(value)
        return f'<line x1="{self.left}" x2="{self.width:.0f}" y1="{y:.1f}" y2="{y:.1f}" {stroke}/>'


def _lines(
    panel: dict[str, Any],
    frames: Sequence[Frame],
    width: float,
    height: float,
    looked: Range,
    marks: Sequence[tuple[float, str]],
) -> str:
    custom = panel["fieldConfig"]["defaults"]["custom"]
    stacked = custom["stacking"]["mode"] == "normal"
    # What a legend needs: about six pixels a letter, and the line beside it.
    needs = sum(6 * len(frame.name) + 30 for frame in frames)
    height -= 22 if needs < width else 36
    tops = _stacked(frames) if stacked else [frame.points for frame in frames]
    values = [value for points in tops for _, value in points]
    low = min([*values, custom.get("axisSoftMin", math.inf)])
    high = max([*values, custom.get("axisSoftMax", -math.inf)])
    log = custom.get("scaleDistribution", {}).get("type") == "log"
    if log:
        low, high = math.log10(max(low, 1e-3)), math.log10(max(high, 1e-2))
    scale = Scale(looked, width, height - 16, low, max(high, low + 1e-9), log)
    if high <= low:
        scale.high = low + 1
    parts = _background(panel, scale, marks)
    legend = []
    for number, frame in enumerate(frames):
        field = _field(panel, frame.name)
        colour = _PALETTE[number % len(_PALETTE)]
        if field.get("color", {}).get("mode") == "fixed":
            colour = _colour(field["color"]["fixedColor"])
        legend.append((frame.name, colour))
        dash = ' stroke-dasharray="6 5"' if "custom.lineStyle" in field else ""
        floor = dict(tops[number - 1]) if number else {}
        for run in _runs(tops[number], looked.step(panel)):
            path = " ".join(f"{scale.x(at):.1f},{scale.y(value):.1f}" for at, value in run)
            parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}"{dash}/>')
            if stacked:
                back = " ".join(
                    f"{scale.x(at):.1f},{scale.y(floor.get(at, 0.0)):.1f}"
                    for at, _ in reversed(run)
                )
                parts.append(f'<polygon points="{path} {back}" fill="{colour}" opacity=".4"/>')
    return _svg(width, height + 14, parts) + _legend(legend)


def _background(
    panel: dict[str, Any], scale: Scale, marks: Sequence[tuple[float, str]]
) -> list[str]:
    """Grid, thresholds and marks."""
    defaults = panel["fieldConfig"]["defaults"]
    parts = []
    for tick in _ticks(scale.low, scale.high):
        value = 10**tick if scale.log else tick
        text = formatted(value, defaults["unit"], defaults.get("decimals"))
        parts.append(
            scale.across(value, 'stroke="#25282d"')
            + f'<text x="{scale.left - 5}" y="{scale.y(value) + 3:.1f}" text-anchor="end">'
            f"{escape(text)}</text>"
        )
    parts += _time_ticks(scale.left, scale.width, scale.bottom + 13, scale.looked)
    for step in defaults["thresholds"]["steps"]:
        if step["value"] is not None and scale.low <= step["value"] <= scale.high:
            stroke = f'stroke="{_colour(step["color"])}" stroke-dasharray="8 6"'
            parts.append(scale.across(step["value"], stroke))
    parts += [
        f'<line x1="{scale.x(at):.1f}" x2="{scale.x(at):.1f}" y1="4" y2="{scale.bottom:.0f}" '
        'stroke="#5794F2" stroke-dasharray="3 3"/>'
        for at, _ in marks
        if scale.looked.start <= at <= scale.looked.end
    ]
    return parts


def _stacked(frames: Sequence[Frame]) -> list[list[tuple[float, float]]]:
    below: dict[float, float] = {}
    tops = []
    for frame in frames:
        for at, value in frame.points:
            below[at] = below.get(at, 0.0) + value
        tops.append([(at, below[at]) for at in sorted(below)])
    return tops


def _runs(points: Sequence[tuple[float, float]], step: int) -> Iterable[list[tuple[float, float]]]:
    """Points without a gap between them."""
    run: list[tuple[float, float]] = []
    for point in points:
        if run and point[0] - run[-1][0] > step * 1.5:
            yield run
            run = []
        run.append(point)
    yield run


def _ticks(low: float, high: float) -> list[float]:
    raw = (high - low) / 4
    size = 10 ** math.floor(math.log10(raw))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= raw)
    first = math.ceil(low / step)
    return [number * step for number in range(first, math.floor(high / step) + 1)]
