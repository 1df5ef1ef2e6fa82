"""Why bad attempts were judged and blamed as they were: what the pipeline remembers, for JSON.

Read from the memory of the `blame` stage and its history at the moment of asking; the last
`limits.explained` bad attempts are there, since the last start or reload. History leaves out
minutes in which the journey was hurt, so it says what was usual before. Resources are those of the
minutes before the verdict, so long as they are kept.
"""

from collections import Counter, defaultdict
from typing import Any

import numpy as np

from outcome_exporter.blame import Blame
from outcome_exporter.changes import followed
from outcome_exporter.kernels import blame as k
from outcome_exporter.kernels import steps
from outcome_exporter.model import ERROR, MISSED, NO_VALUE, REASONS, RECOVERED, Row
from outcome_exporter.pipeline import Pipeline
from outcome_exporter.question import Asked
from outcome_exporter.snapshot import changes
from outcome_exporter.units import MILLIONTHS, MINUTE, SECOND

_NOW = 5 * MINUTE
"""Window of what is blamed now."""
_VERSION = "service.version"
_EXAMPLES = 3
_MS = 1e6


def answer(pipeline: Pipeline, asked: Asked) -> object | None:
    """What is known, as plain data; None where nothing is."""
    return _trace(pipeline, asked.trace_id) if asked.trace_id else _journey(pipeline, asked)


def _trace(pipeline: Pipeline, trace_id: str) -> object | None:
    told = _told(pipeline.blame)
    hi, lo = np.uint64(int(trace_id[:16], 16)), np.uint64(int(trace_id[16:], 16))
    rows = told[(told["trace_hi"] == hi) & (told["trace_lo"] == lo)]
    if not rows.size:
        return None
    url = (pipeline.config.trace_url or "").replace("{trace_id}", trace_id)
    attempts = [_attempt(pipeline, row) for row in rows]
    return {"trace_id": trace_id, "trace_url": url, "attempts": attempts}


def _journey(pipeline: Pipeline, asked: Asked) -> object | None:
    names = [journey.name for journey in pipeline.plan.journeys]
    if asked.journey not in names:
        return None
    everything = _told(pipeline.blame)
    from_time = (pipeline.second or 0) * SECOND - asked.since
    which = everything["journey"] == names.index(asked.journey)
    rows = everything[which & (everything["time"] >= from_time)]
    by_cause: dict[int, list[Any]] = defaultdict(list)
    for row in rows:
        by_cause[int(row["cause"])].append(row)
    causes = [
        {
            "cause": _cause(pipeline, cause),
            "bad": len(found),
            "reasons": Counter(REASONS[row["reason"]] for row in found),
            "examples": [_trace_id(row) for row in found[::-1] if _trace_id(row)][:_EXAMPLES],
        }
        for cause, found in sorted(by_cause.items(), key=lambda pair: (-len(pair[1]), pair[0]))
    ]
    remembered_from = pipeline.remembered_from or 0
    forgotten = int(pipeline.blame.memory.counts[k.TOLDS]) > everything.size
    return {
        "journey": asked.journey,
        "since_seconds": asked.since // SECOND,
        "bad": int(rows.size),
        "forgotten_before": int(everything["time"].min()) // SECOND if forgotten else None,
        "remembered_from": remembered_from if from_time < remembered_from * SECOND else None,
        "causes": causes,
        **_around(pipeline, names.index(asked.journey)),
    }


def _around(pipeline: Pipeline, journey: int) -> dict[str, Any]:
    """What stands beside the causes of a journey now."""
    suspects = _suspects(pipeline, journey)
    return {"suspects": suspects, "changes": _changes(pipeline, journey, suspects)}


def _suspects(pipeline: Pipeline, journey: int) -> list[dict[str, Any]]:
    """What bad attempts of the last minutes have more often than good ones."""
    dimensions, text = pipeline.config.causes.dimensions, pipeline.traces.texts.text
    return [
        {
            **suspect._asdict(),
            "service": text(suspect.service),
            "dimension": dimensions[suspect.dimension],
            "value": pipeline.traces.traits.value(suspect.trait),
        }
        for suspect in pipeline.suspects.suspects(journey)
    ]


def _changes(
    pipeline: Pipeline, journey: int, suspects: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Changes that may be to blame for what hurts a journey now, and why each is thought so.

    `differs`: the new version serves beside another one, and bad attempts went through it more
    often than good ones. `followed`: its service is blamed now, for what may come of it.
    """
    differs = {
        (suspect["service"], suspect["value"])
        for suspect in suspects
        if suspect["dimension"] == _VERSION
    }
    began: dict[str, int] = {}
    text = pipeline.traces.texts.text
    for finding in pipeline.blame.findings(journey, _NOW):
        since = pipeline.blame.since(journey, finding)
        if since is not None:
            service = text(finding.service)
            began[service] = min(began.get(service, since), since)
    found = []
    for change in changes(pipeline):
        since = began.get(change.service)
        if (change.service, change.version) in differs:
            why = "differs"
        elif since is not None and followed(change.time / SECOND, since / SECOND):
            why = "followed"
        else:
            continue
        before = None if since is None else (since - change.time) / SECOND
        found.append(
            {
                **change._asdict(),
                "time": change.time / SECOND,
                "why": why,
                "seconds_before": before,
            }
        )
    return found


def _told(blame: Blame) -> Any:  # noqa: ANN401 - a table
    """The bad attempts that are remembered, oldest first, by the reason that they have now."""
    told, written = blame.memory.told, int(blame.memory.counts[k.TOLDS])
    rows = np.roll(told, -(written % told.size)) if written > told.size else told[:written].copy()
    recovered = blame.memory.recovered[: blame.memory.counts[k.RECOVEREDS]]
    rows["reason"][(rows["reason"] == ERROR) & np.isin(rows["key"], recovered)] = RECOVERED
    return rows


def _trace_id(row: Row) -> str:
    hi, lo = int(row["trace_hi"]), int(row["trace_lo"])
    return f"{hi:016x}{lo:016x}" if hi or lo else ""


def _cause(pipeline: Pipeline, cause: int) -> dict[str, str]:
    row = pipeline.blame.causes[cause]
    text = pipeline.traces.texts.text
    names = {name: text(int(row[name])) for name in ("service", "operation", "version")}
    return {**names, "kind": steps.KINDS[row["kind"]]}


def _step(pipeline: Pipeline, step: int) -> dict[str, str]:
    row = pipeline.blame.state.steps[step]
    text = pipeline.traces.texts.text
    names = (("service", "first"), ("operation", "second"), ("version", "version"))
    return {name: text(int(row[field])) for name, field in names}


def _attempt(pipeline: Pipeline, row: Row) -> dict[str, Any]:
    journey = pipeline.plan.journeys[row["journey"]]
    cause = _cause(pipeline, int(row["cause"]))
    path = _path(pipeline.blame, row)
    value = int(row["value"])
    has_value = journey.value is not None and value != NO_VALUE
    return {
        "journey": journey.name,
        "title": journey.title or journey.name,
        "reason": REASONS[row["reason"]],
        "started": int(row["start"]) / SECOND,
        "judged": int(row["time"]) / SECOND,
        "value": value / MILLIONTHS if has_value else None,
        "currency": journey.value.currency if journey.value else "",
        "cause": cause,
        "duration_ms": None if path is None else int(path["end"] - path["start"]) / _MS,
        "left_out": 0 if path is None else int(path["left_out"]),
        "path": [] if path is None else _spans(pipeline, path, cause),
        "steps": [] if path is None else _steps(pipeline, path, cause),
        "absent": _absent(pipeline, row) if row["reason"] == MISSED else [],
        **_around(pipeline, int(row["journey"])),
        "resources": _resources(pipeline, cause["service"], int(row["time"])),
    }


def _resources(pipeline: Pipeline, service: str, time: int) -> list[dict[str, Any]]:
    """What the resources of whom is blamed said at a time."""
    closed = pipeline.resources.minute - 1
    found = pipeline.resources.evidence(service, min(time // MINUTE, closed)) if service else []
    return [
        {
            "resource": one.resource.name,
            "limited": one.resource.limited,
            "now": one.now,
            "usual": one.usual,
            "deviations": one.deviations,
            "corroborates": one.corroborates,
        }
        for one in found
    ]


def _path(blame: Blame, row: Row) -> Any:  # noqa: ANN401 - a row of a table, or None
    """The critical path that is remembered of an attempt, if it still is."""
    memory = blame.memory
    paths = memory.paths[: min(int(memory.counts[k.PATHS]), memory.paths.size)]
    same = np.ones(paths.size, np.bool_)
    for name in ("trace_hi", "trace_lo", "start", "journey"):
        same &= paths[name] == row[name]
    # What the ring of spans has written over is gone.
    same &= paths["first"] >= memory.counts[k.PATH_SPANS] - memory.spans.size
    found = paths[same]
    return found[-1] if found.size else None


def _rows(blame: Blame, path: Row) -> Any:  # noqa: ANN401 - a table
    size = blame.memory.spans.size
    return blame.memory.spans[(int(path["first"]) + np.arange(int(path["count"]))) % size]


def _spans(pipeline: Pipeline, path: Row, cause: dict[str, str]) -> list[dict[str, Any]]:
    return [
        {
            **_step(pipeline, int(span["step"])),
            "depth": int(span["depth"]),
            "start_ms": int(span["start"]) / _MS,
            "duration_ms": int(span["length"]) / _MS,
            "own_ms": int(span["own"]) / _MS,
            "failed": bool(span["failed"]),
            "passed_on": bool(span["failed"] and span["covered"]),
            "chosen": _is(pipeline, int(span["charged"]), cause),
        }
        for span in _rows(pipeline.blame, path)
    ]


def _is(pipeline: Pipeline, step: int, cause: dict[str, str]) -> bool:
    return _step(pipeline, step).items() <= cause.items()


def _steps(pipeline: Pipeline, path: Row, cause: dict[str, str]) -> list[dict[str, Any]]:
    """What each step cost the attempt, against its history; the largest difference first."""
    state = pipeline.blame.state
    own_ms: dict[int, float] = defaultdict(float)
    failures: Counter[int] = Counter()
    for span in _rows(pipeline.blame, path):
        step, charged, ms = int(span["step"]), int(span["charged"]), int(span["own"]) / _MS
        share = 0.0 if step == charged else k.CALLEE_SHARE
        own_ms[step] += (1 - share) * ms
        own_ms[charged] += share * ms
        failures[charged] += bool(span["failed"] and not span["covered"])
    found: list[dict[str, Any]] = []
    for step, ms in own_ms.items():
        past = state.base[int(state.steps[step]["base"])]
        attempts, begun = float(past[steps.ATTEMPTS]), float(past[steps.SPANS])
        known = attempts >= steps.HISTORY_MIN
        usual = float(past[steps.MS]) / attempts if known else None
        deviations = None
        if known:
            mean = float(past[steps.LOG]) / attempts
            variance = max(float(past[steps.SQUARES]) / attempts - mean * mean, 0.0)
            deviations = (np.log1p(ms) - mean) / np.sqrt(variance + steps.VARIANCE_FLOOR)
        found.append(
            {
                **_step(pipeline, step),
                "ms": ms,
                "usual_ms": usual,
                "deviations": None if deviations is None else float(deviations),
                "failures": failures[step],
                "usual_failures": float(past[steps.ERRORS]) / begun if known and begun else None,
                "history_attempts": attempts,
                "chosen": _is(pipeline, step, cause),
            }
        )
    found.sort(key=lambda step: -(step["ms"] - (step["usual_ms"] or 0.0)))
    return found


def _absent(pipeline: Pipeline, row: Row) -> list[dict[str, str]]:
    """Steps that the journey knows and a silent failure did not reach."""
    bits = pipeline.blame.state.bits[row["journey"]]
    present = int(row["present"])
    known = [(bit, int(base)) for bit, base in enumerate(bits.tolist()) if base >= 0]
    return [_step(pipeline, base) for bit, base in known if present and not present >> bit & 1]
