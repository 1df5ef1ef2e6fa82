"""What dashboards are made of: panels, variables, links and the grid, in Grafana's classic JSON.

Each function makes one kind of panel with everything that a reader needs: a title that is a
question or a fact, a description for a newcomer, a unit and thresholds. Rows are filled from left
to right in the order in which they are read.
"""

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from string import ascii_uppercase
from typing import Any

from outcome_exporter.dashboards import style
from outcome_exporter.dashboards.promql import select
from outcome_exporter.dashboards.sdk import (
    bargauge,
    common,
    dashboard,
    prometheus,
    stat,
    statetimeline,
    table,
    timeseries,
)
from outcome_exporter.dashboards.style import Meaning, Thresholds
from outcome_exporter.series import BUILD_INFO, CHANGE_INFO, Family

WIDTH = 24
"""Columns of Grafana's grid."""
SOURCE = common.DataSourceRef("prometheus", "${datasource}")
TAG = "outcome-exporter"
NOTHING = "no data"

Override = dashboard.DashboardFieldConfigSourceOverrides


@dataclass(frozen=True, slots=True)
class Query:
    """One query of a panel."""

    expr: str
    legend: str = "__auto"
    exemplars: bool = False
    """Traces that are examples of it are shown as points."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: a label of the rows, or the value of a query by row."""

    title: str
    label: str = ""
    """The label that it shows; all queries of the table have those of its rows."""
    expr: str = ""
    unit: str = style.COUNT
    decimals: int | None = None
    thresholds: Thresholds = style.NEUTRAL
    meanings: Mapping[int, Meaning] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    """What is shown in place of a label's value."""
    link: str = ""
    """Where a cell leads."""
    link_title: str = ""
    width: int | None = None
    bar: bool = False
    """A share of one, drawn."""

    @property
    def coloured(self) -> bool:
        """Whether its colours say something."""
        return bool(self.thresholds[1] or self.meanings)


def stats(
    title: str,
    description: str,
    queries: Sequence[Query],
    *,
    width: int,
    unit: str = style.COUNT,
    decimals: int | None = None,
    thresholds: Thresholds = style.NEUTRAL,
    meanings: Mapping[int, Meaning] | None = None,
    colours: Mapping[str, Thresholds] | None = None,
    height: int = 4,
    nothing: str = NOTHING,
) -> dashboard.Panel:
    """Numbers to be read from across the room; `colours` are thresholds by legend."""
    text_mode = common.BigValueTextMode.AUTO
    if len(queries) > 1:
        text_mode = common.BigValueTextMode.VALUE_AND_NAME
    return _panel(
        "stat",
        title,
        description,
        [_target(query, number, instant=True) for number, query in enumerate(queries)],
        stat.Options(
            graph_mode=common.BigValueGraphMode.NONE,
            color_mode=common.BigValueColorMode.VALUE,
            justify_mode=common.BigValueJustifyMode.CENTER,
            text_mode=text_mode,
            reduce_options=common.ReduceDataOptions(values=False, calcs=["lastNotNull"]),
            orientation=common.VizOrientation.AUTO,
        ),
        _defaults(unit, decimals, thresholds, meanings, nothing),
        [
            _override(name, [_property("thresholds", _thresholds(steps))])
            for name, steps in (colours or {}).items()
        ],
        size=(width, height),
    )


def lines(
    title: str,
    description: str,
    queries: Sequence[Query],
    *,
    width: int,
    unit: str = style.COUNT,
    decimals: int | None = None,
    thresholds: Thresholds = style.NEUTRAL,
    stacked: bool = False,
    bars: bool = False,
    colours: Mapping[str, str] | None = None,
    dashed: Mapping[str, str] | None = None,
    least: float | None = 0,
    most: float | None = None,
    log: bool = False,
    height: int = 8,
    nothing: str = NOTHING,
    trace_url: str = "",
    points_max: int | None = None,
) -> dashboard.Panel:
    """Values over time.

    Args:
        title: A question or a fact.
        description: What a newcomer sees.
        queries: What is drawn.
        width: Columns of the grid.
        unit: Of the values.
        decimals: As many as matter.
        thresholds: Drawn as lines.
        stacked: The parts add up to a whole.
        bars: Counts of intervals, rather than a course.
        colours: Fixed ones, by a series' name.
        dashed: Patterns of the names of limits and projections, and their colour if they have one.
        least: Where the scale begins at least; None: where the values do.
        most: Where it ends at least.
        log: The scale is logarithmic.
        height: Rows of the grid.
        nothing: What is said in place of no data.
        trace_url: Where a trace is found, with `{trace_id}`; empty: the data source knows.
        points_max: How many points are asked for at most.
    """
    custom = timeseries.FieldConfig(
        draw_style=common.GraphDrawStyle.BARS if bars else common.GraphDrawStyle.LINE,
        line_width=1,
        fill_opacity=_fill(stacked=stacked, bars=bars),
        show_points=common.VisibilityMode.NEVER,
        # A gap is a gap: nothing is drawn over time of which nothing is known.
        span_nulls=False,
        axis_soft_min=least,
        axis_soft_max=most,
        stacking=common.StackingConfig(
            mode=common.StackingMode.NORMAL if stacked else common.StackingMode.NONE, group="A"
        ),
        thresholds_style=common.GraphThresholdsStyleConfig(
            mode=common.GraphThresholdsStyleMode.DASHED
            if thresholds[1]
            else common.GraphThresholdsStyleMode.OFF
        ),
        scale_distribution=common.ScaleDistributionConfig(
            type_val=common.ScaleDistribution.LOG, log=10
        )
        if log
        else None,
    )
    overrides = [
        _override(name, [_property("color", _fixed(colour))])
        for name, colour in (colours or {}).items()
    ]
    dash = {"fill": "dash", "dash": [8, 8]}
    overrides += [
        _override_matching(
            pattern,
            [
                _property("custom.lineStyle", dash),
                _property("custom.fillOpacity", 0),
                *([_property("color", _fixed(colour))] if colour else []),
            ],
        )
        for pattern, colour in (dashed or {}).items()
    ]
    if trace_url:
        overrides.append(_override("trace_id", [_property("links", [_trace_link(trace_url)])]))
    defaults = _defaults(unit, decimals, thresholds, None, nothing)
    defaults.custom = custom
    defaults.color = dashboard.FieldColor(mode=dashboard.FieldColorModeId.PALETTE_CLASSIC)
    panel = _panel(
        "timeseries",
        title,
        description,
        [_target(query, number) for number, query in enumerate(queries)],
        timeseries.Options(
            legend=common.VizLegendOptions(
                display_mode=common.LegendDisplayMode.LIST,
                placement=common.LegendPlacement.BOTTOM,
                show_legend=True,
                calcs=[],
            ),
            tooltip=common.VizTooltipOptions(
                mode=common.TooltipDisplayMode.MULTI, sort=common.SortOrder.DESCENDING
            ),
        ),
        defaults,
        overrides,
        size=(width, height),
    )
    panel.max_data_points = points_max
    return panel


def _fill(*, stacked: bool, bars: bool) -> float:
    if bars:
        return 80
    return 40 if stacked else 8


def timeline(
    title: str,
    description: str,
    query: Query,
    meanings: Mapping[int, Meaning],
    *,
    width: int,
    height: int,
    points_max: int,
) -> dashboard.Panel:
    """States over time, a row for each series."""
    defaults = _defaults(style.COUNT, None, style.NEUTRAL, meanings, NOTHING)
    defaults.custom = statetimeline.FieldConfig(line_width=0, fill_opacity=80)
    panel = _panel(
        "state-timeline",
        title,
        description,
        [_target(query, 0)],
        statetimeline.Options(
            show_value=common.VisibilityMode.NEVER,
            row_height=0.8,
            merge_values=True,
            align_value=common.TimelineValueAlignment.LEFT,
            legend=common.VizLegendOptions(
                display_mode=common.LegendDisplayMode.LIST,
                placement=common.LegendPlacement.BOTTOM,
                show_legend=True,
                calcs=[],
            ),
            tooltip=common.VizTooltipOptions(
                mode=common.TooltipDisplayMode.SINGLE, sort=common.SortOrder.NONE
            ),
            per_page=20,
        ),
        defaults,
        [],
        size=(width, height),
    )
    panel.max_data_points = points_max
    return panel


def ranking(
    title: str,
    description: str,
    query: Query,
    *,
    width: int,
    unit: str,
    decimals: int | None = None,
    thresholds: Thresholds,
    most: float | None = None,
    height: int = 8,
    nothing: str = NOTHING,
) -> dashboard.Panel:
    """Bars, longest first as the query sorts them."""
    defaults = _defaults(unit, decimals, thresholds, None, nothing)
    defaults.min_val, defaults.max_val = 0, most
    return _panel(
        "bargauge",
        title,
        description,
        [_target(query, 0, instant=True)],
        bargauge.Options(
            display_mode=common.BarGaugeDisplayMode.BASIC,
            value_mode=common.BarGaugeValueMode.COLOR,
            orientation=common.VizOrientation.HORIZONTAL,
            reduce_options=common.ReduceDataOptions(values=False, calcs=["lastNotNull"]),
        ),
        defaults,
        [],
        size=(width, height),
    )


def rows(
    title: str,
    description: str,
    columns: Sequence[Column],
    *,
    sort: str,
    descending: bool,
    width: int = WIDTH,
    height: int = 9,
    nothing: str = NOTHING,
) -> dashboard.Panel:
    """A table: a row for each combination of the labels, a column for each query."""
    asked = [column for column in columns if column.expr]
    targets = [
        _target(Query(column.expr), number, instant=True, as_table=True)
        for number, column in enumerate(asked)
    ]
    # Grafana numbers the values only if there are several queries.
    values = {
        f"Value #{ascii_uppercase[number]}" if len(asked) > 1 else "Value": column
        for number, column in enumerate(asked)
    }
    names = {
        column.label or next(name for name, c in values.items() if c is column): column
        for column in columns
    }
    organize: dict[str, object] = {
        "excludeByName": {"Time": True},
        "indexByName": {name: place for place, name in enumerate(names)},
        "renameByName": {name: column.title for name, column in names.items()},
    }
    merge = [_transformation("merge", {})] if len(asked) > 1 else []
    return _table(
        title,
        description,
        targets,
        [
            *merge,
            _transformation("organize", organize),
            _transformation("sortBy", {"sort": [{"field": sort, "desc": descending}]}),
        ],
        [_column_override(column) for column in columns],
        size=(width, height),
        nothing=nothing,
    )


def matrix(
    title: str,
    description: str,
    query: Query,
    *,
    row: str,
    column: str,
    columns: Sequence[str],
    unit: str,
    decimals: int,
    thresholds: Thresholds,
    width: int,
    height: int = 9,
    nothing: str = NOTHING,
) -> dashboard.Panel:
    """A table of one query whose cells are coloured: one label down, another across.

    `columns` are the values of the other label that come first, in this order.
    """
    options = {"rowField": row, "columnField": column, "valueField": "Value", "emptyValue": "null"}
    corner = f"{row}\\{column}"
    panel = _table(
        title,
        description,
        [_target(query, 0, instant=True, as_table=True)],
        [
            _transformation("groupingToMatrix", options),
            _transformation(
                "organize",
                {
                    "excludeByName": {},
                    "indexByName": {name: n for n, name in enumerate((corner, *columns))},
                    "renameByName": {corner: row.upper()},
                },
            ),
        ],
        [],
        size=(width, height),
        nothing=nothing,
    )
    defaults = _defaults(unit, decimals, thresholds, None, nothing)
    defaults.custom = {"cellOptions": {"type": "color-background", "mode": "basic"}}
    assert panel.field_config is not None
    panel.field_config.defaults = defaults
    return panel


def _table(
    title: str,
    description: str,
    targets: list[prometheus.Dataquery],
    transformations: list[dashboard.DataTransformerConfig],
    overrides: list[Override],
    *,
    size: tuple[int, int],
    nothing: str,
) -> dashboard.Panel:
    panel = _panel(
        "table",
        title,
        description,
        targets,
        table.Options(cell_height=common.TableCellHeight.SM),
        _defaults(style.COUNT, None, style.NEUTRAL, None, nothing),
        overrides,
        size=size,
    )
    panel.transformations = transformations
    return panel


def _column_override(column: Column) -> Override:
    properties = []
    if column.expr:
        properties.append(_property("unit", column.unit))
        if column.decimals is not None:
            properties.append(_property("decimals", column.decimals))
        properties.append(_property("thresholds", _thresholds(column.thresholds)))
    if column.bar:
        properties += [
            _property("min", 0),
            _property("max", 1),
            _property("custom.cellOptions", {"type": "gauge", "mode": "basic"}),
        ]
    elif column.coloured:
        properties.append(_property("custom.cellOptions", {"type": "color-text"}))
    if column.meanings:
        properties.append(_property("mappings", _mappings(column.meanings)))
        properties.append(_property("custom.align", "left"))
    if column.texts:
        shown = {v: dashboard.ValueMappingResult(text) for v, text in column.texts.items()}
        properties.append(_property("mappings", [dashboard.ValueMap(shown)]))
    if column.link:
        link = {"title": column.link_title, "url": column.link, "targetBlank": False}
        properties.append(_property("links", [link]))
    if column.width is not None:
        properties.append(_property("custom.width", column.width))
    return _override(column.title, properties)


def _panel(
    kind: str,
    title: str,
    description: str,
    targets: Sequence[prometheus.Dataquery],
    options: object,
    defaults: dashboard.FieldConfig,
    overrides: list[Override],
    *,
    size: tuple[int, int],
) -> dashboard.Panel:
    width, height = size
    return dashboard.Panel(
        type_val=kind,
        title=title,
        description=description,
        datasource=SOURCE,
        targets=list(targets),
        # Points closer than samples say nothing more.
        interval="15s",
        options=options,
        field_config=dashboard.FieldConfigSource(defaults=defaults, overrides=overrides),
        grid_pos=dashboard.GridPos(h=height, w=width),
    )


def _target(
    query: Query, number: int, *, instant: bool = False, as_table: bool = False
) -> prometheus.Dataquery:
    return prometheus.Dataquery(
        datasource=SOURCE,
        editor_mode=prometheus.QueryEditorMode.CODE,
        exemplar=query.exemplars,
        expr=query.expr,
        format_val=prometheus.PromQueryFormat.TABLE
        if as_table
        else prometheus.PromQueryFormat.TIME_SERIES,
        instant=instant,
        range_val=not instant,
        legend_format=query.legend,
        ref_id=ascii_uppercase[number],
    )


def _defaults(
    unit: str,
    decimals: int | None,
    thresholds: Thresholds,
    meanings: Mapping[int, Meaning] | None,
    nothing: str,
) -> dashboard.FieldConfig:
    return dashboard.FieldConfig(
        unit=unit,
        decimals=decimals,
        thresholds=_thresholds(thresholds),
        color=dashboard.FieldColor(mode=dashboard.FieldColorModeId.THRESHOLDS),
        mappings=_mappings(meanings) if meanings else [],
        no_value=nothing,
    )


def _thresholds(thresholds: Thresholds) -> dashboard.ThresholdsConfig:
    base, steps = thresholds
    return dashboard.ThresholdsConfig(
        mode=dashboard.ThresholdsMode.ABSOLUTE,
        steps=[
            dashboard.Threshold(None, base),
            *(dashboard.Threshold(step.value, step.colour) for step in steps),
        ],
    )


def _mappings(meanings: Mapping[int, Meaning]) -> list[dashboard.ValueMapping]:
    return [
        dashboard.ValueMap(
            {
                str(number): dashboard.ValueMappingResult(meaning.text, meaning.colour, index=place)
                for place, (number, meaning) in enumerate(meanings.items())
            }
        )
    ]


def _fixed(colour: str) -> dashboard.FieldColor:
    return dashboard.FieldColor(mode=dashboard.FieldColorModeId.FIXED, fixed_color=colour)


def _trace_link(trace_url: str) -> dict[str, object]:
    url = trace_url.replace("{trace_id}", "${__value.raw}")
    return {"title": "Open the trace", "url": url, "targetBlank": True}


def _override(name: str, properties: list[dashboard.DynamicConfigValue]) -> Override:
    return Override(matcher=dashboard.MatcherConfig("byName", name), properties=properties)


def _override_matching(pattern: str, properties: list[dashboard.DynamicConfigValue]) -> Override:
    return Override(matcher=dashboard.MatcherConfig("byRegexp", pattern), properties=properties)


def _property(name: str, value: object) -> dashboard.DynamicConfigValue:
    return dashboard.DynamicConfigValue(name, value)


def _transformation(name: str, options: dict[str, Any]) -> dashboard.DataTransformerConfig:
    return dashboard.DataTransformerConfig(id_val=name, options=options)


# Variables and links


def datasource_variables() -> list[dashboard.VariableModel]:
    """The Prometheus, and the exporter in it."""
    return [
        dashboard.VariableModel(
            type_val=dashboard.VariableType.DATASOURCE,
            name="datasource",
            label="Data source",
            query="prometheus",
            current=dashboard.VariableOption(selected=False, text="default", value="default"),
        ),
        _query_variable("job", "Exporter", f"label_values({BUILD_INFO.name}, job)", multi=False),
    ]


def variable(
    name: str,
    label: str,
    family: Family,
    of: str,
    *,
    multi: bool,
    hidden: bool = False,
    everything: str | None = None,
    **matchers: str,
) -> dashboard.VariableModel:
    """A variable of the values of a label; `multi` ones begin with all of them.

    All of them are listed, unless a pattern says what `everything` is.
    """
    assert of in family.labels, (family.name, of)
    query = f"label_values({select(family, **matchers)}, {of})"
    found = _query_variable(name, label, query, multi=multi)
    found.all_value = everything
    if hidden:
        found.hide = dashboard.VariableHide.HIDE_VARIABLE
    return found


def slos_found(name: str, label: str, expr: str) -> dashboard.VariableModel:
    """A hidden variable of the SLOs that an expression finds at the end of the time range.

    A panel that worked out by itself which SLOs are worst would read all of them, over time at
    each of its points.
    """
    # Grafana takes what is in one line only.
    query = f"query_result({' '.join(expr.split())})"
    found = _query_variable(name, label, query, multi=True)
    found.regex = '/slo="([^"]+)"/'
    found.hide = dashboard.VariableHide.HIDE_VARIABLE
    return found


def _query_variable(name: str, label: str, query: str, *, multi: bool) -> dashboard.VariableModel:
    everything = dashboard.VariableOption(selected=True, text=["All"], value=["$__all"])
    return dashboard.VariableModel(
        type_val=dashboard.VariableType.QUERY,
        name=name,
        label=label,
        datasource=SOURCE,
        query={"query": query, "refId": f"variable-{name}"},
        definition=query,
        # Journeys and services come and go with the time that one looks at.
        refresh=dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED,
        sort=dashboard.VariableSort.ALPHABETICAL_ASC,
        multi=multi,
        include_all=multi,
        current=everything if multi else None,
    )


def changes(service: str) -> dashboard.AnnotationQuery:
    """Deployments and flag changes of services, as marks in every panel over time."""
    # Its value is the time of the change; Grafana takes milliseconds.
    expr = f"{select(CHANGE_INFO, service=service)} * 1000"
    return dashboard.AnnotationQuery(
        name="Deployments and flag changes",
        datasource=SOURCE,
        enable=True,
        icon_color="blue",
        expr=expr,
        title_format="{{service}}: {{kind}} {{version}}",
        text_format="before: {{previous_version}}",
        tag_keys="kind",
        step="60s",
        use_value_for_time=True,
    )


def url(uid: str, **variables: str) -> str:
    """Another dashboard, with the data source, the exporter and the time range of this one."""
    given = "".join(f"&var-{name}={value}" for name, value in variables.items())
    return f"/d/{uid}?${{datasource:queryparam}}&${{job:queryparam}}{given}&${{__url_time_range}}"


@dataclass(frozen=True, slots=True)
class Row:
    """Panels under a heading, in the order in which they are read."""

    title: str
    panels: Sequence[dashboard.Panel]


def assemble(
    uid: str,
    title: str,
    description: str,
    *,
    variables: Iterable[dashboard.VariableModel],
    rows_: Sequence[Row],
    annotations: Sequence[dashboard.AnnotationQuery] = (),
    since: str,
) -> dashboard.Dashboard:
    """A dashboard whose rows are filled from left to right.

    Panels are numbered by their titles, so that a link to one stays right when others are added.
    """
    placed: list[dashboard.Panel | dashboard.RowPanel] = []
    top = 0
    for row in rows_:
        if row.title:
            place = dashboard.GridPos(h=1, w=WIDTH, x=0, y=top)
            heading = dashboard.RowPanel(title=row.title, grid_pos=place, id_val=_id(row.title))
            placed.append(heading)
            top += 1
        left = height = 0
        for panel in row.panels:
            assert panel.grid_pos is not None
            assert panel.title is not None
            if left + panel.grid_pos.w > WIDTH:
                left, top, height = 0, top + height, 0
            panel.grid_pos.x, panel.grid_pos.y = left, top
            panel.id_val = _id(panel.title)
            placed.append(panel)
            left += panel.grid_pos.w
            height = max(height, panel.grid_pos.h)
        top += height
    return dashboard.Dashboard(
        uid=uid,
        title=title,
        description=description,
        tags=[TAG],
        # Grafana's own word; not "browser" alone, so that a user's setting counts.
        timezone="browser",
        editable=False,
        graph_tooltip=dashboard.DashboardCursorSync.CROSSHAIR,
        time=dashboard.DashboardDashboardTime(since, "now"),
        refresh="1m",
        panels=placed,
        templating=dashboard.DashboardDashboardTemplating(list(variables)),
        annotations=dashboard.AnnotationContainer(list(annotations)),
        links=[_all_dashboards()],
    )


def _id(title: str) -> int:
    return zlib.crc32(title.encode()) % 1_000_000 + 1


def _all_dashboards() -> dashboard.DashboardLink:
    link = dashboard.DashboardLink(
        title="All outcome dashboards",
        type_val=dashboard.DashboardLinkType.DASHBOARDS,
        icon="external link",
        tags=[TAG],
        include_vars=True,
        keep_time=True,
    )
    # In sight, not in the menu that newer versions of Grafana would put it into.
    link.placement = None  # type: ignore[assignment]  # the SDK knows but the menu
    return link
