"""Reads the events of SLOs from a Prometheus: what was counted in each closed minute.

State: none of its own; where it goes on from is in the pipeline, since what it finds goes into the
log like any request and is counted from there. So a replay asks no Prometheus and yields the same,
and no minute counts twice. Output: `Polled`, as JSON in the log.

**Samples, not `increase()`.** A selector of counters, such as `http_requests_total{code=~"5.."}`,
is read as raw samples, and differences are taken here. PromQL's `increase()` extrapolates to the
ends of its range, and never sees the first sample of a series: of four pods that each appear with
their first error counted, it sees none. What is counted here is exact:

- A counter that falls has been reset and adds what it says.
- A series that was not there before adds its first sample, up to `births_max`: above, it is taken
  for an old process that was found only now, and counted as refused. So are the others that the
  same scrape of that process found first: of its errors alone a page would follow.
- An increase over a gap in the samples is spread evenly over the gap, if the series was seen within
  `lookback` before; a minute polled later than it ended counts by the same samples.

Anything else is an expression that gives the events of a minute, such as
`sum(increase(jobs_total[1m]))`. Prometheus evaluates it at the end of each minute; it is as exact
as Prometheus is, and it misses what `increase()` misses.

Known limits: samples that reach Prometheus later than `delay` are not seen; native histograms are
not read; the increase over a gap that began in an earlier poll lands after that poll's end.

Source:
    Prometheus, "HTTP API": instant queries with range selectors, range queries.
"""

import json
import logging
import re
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from http.client import HTTPException, HTTPResponse
from itertools import pairwise
from math import isnan
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple, Protocol

from outcome_exporter import series
from outcome_exporter.config.process import Prometheus
from outcome_exporter.config.slos import StandaloneSlo
from outcome_exporter.errors import OutcomeExporterError, SourceError
from outcome_exporter.minutes import spread
from outcome_exporter.model import Encoding, Kind, Polled, Sample, Snapshot
from outcome_exporter.pipeline import Pipeline
from outcome_exporter.polled import encode_polled
from outcome_exporter.promql import is_selector
from outcome_exporter.units import MILLIONTHS, MINUTE, SECOND

logger = logging.getLogger(__name__)

CHUNK_MINUTES = 6 * 60
"""Most that one poll reads; less where Prometheus finds that too much."""
_CHUNK_MINUTES_MIN = 5
_NEAR_SECONDS = 300
"""Samples read from before a poll: the last scrape lies in it, with its time."""
_TIMEOUT_SECONDS = 60.0
_RETRY = 15 * SECOND
_ANSWER_SECONDS = 300.0
"""For an answer to come whole; each of its pieces has the timeout."""
_ANSWER_BYTES_MAX = 64 << 20
"""They take twelve times as much in memory."""
_READ_BYTES = 1 << 20
_EVENTS_MAX = float(1 << 42)
_WEIGHT_MAX = MILLIONTHS << 42
_TOKEN = re.compile(r"[!-~]+")

_Labels = frozenset[tuple[str, str]]
_Sample = tuple[float, float]
"""Unix time, value."""
_Scrape = tuple[_Labels, float]
"""What was scraped, and when."""
_Minutes = dict[int, int]
"""Millionths of events by minute since 1970."""


class Answers(Protocol):
    """Prometheus' HTTP API."""

    def __call__(self, path: str, parameters: Mapping[str, str], /) -> list[dict[str, Any]]:
        """The `result` of an answer.

        Raises:
            TooMuch: It would have to load too much.
            Refused: It answers, but not this query.
            SourceError: There is none.
        """


class Refused(SourceError):
    """A query is not answered; others may be."""


class TooMuch(Refused):
    """A query is too large; ask for less."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirection would lose what is asked, and tell another host the token."""

    def redirect_request(self, *_: object) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirects)


class HttpApi:
    """Prometheus, or what speaks like it: Mimir, Thanos, VictoriaMetrics."""

    def __init__(self, settings: Prometheus) -> None:
        """Nothing is asked yet."""
        self._url = settings.url.rstrip("/")
        self._token_file = settings.bearer_token_file

    def __call__(self, path: str, parameters: Mapping[str, str], /) -> list[dict[str, Any]]:
        """See `Answers`."""
        url = f"{self._url}/api/v1/{path}"
        body = urllib.parse.urlencode(parameters).encode()
        try:
            # The address is the configuration's; its form was checked to be http or https.
            request = urllib.request.Request(url, body, self._headers())  # noqa: S310
            with _OPENER.open(request, timeout=_TIMEOUT_SECONDS) as response:
                text = _whole(response)
        except urllib.error.HTTPError as error:
            said = _error_text(error)
            kind = TooMuch if error.code in (413, 422) and "too many" in said else Refused
            raise kind(f"{url} answers {error.code}: {said}") from None
        except TimeoutError as error:  # it took this query, and may answer others
            raise Refused(f"{url} does not answer in time: {error}") from None
        except (OSError, HTTPException) as error:
            raise SourceError(f"{url} cannot be reached: {error}") from None
        if len(text) > _ANSWER_BYTES_MAX:
            raise TooMuch(f"{url} answers with more than {_ANSWER_BYTES_MAX >> 20} MiB")
        try:
            return list(json.loads(text)["data"]["result"])
        except (ValueError, KeyError, TypeError, RecursionError):
            raise SourceError(f"{url} does not answer like a Prometheus; see its url") from None

    def _headers(self) -> dict[str, str]:
        if self._token_file is None:
            return {}
        try:
            token = Path(self._token_file).read_text(encoding="utf-8", errors="replace").strip()
        except OSError as error:
            raise SourceError(f"{self._token_file}: {error.strerror}") from None
        if _TOKEN.fullmatch(token) is None:
            # What it holds instead is not repeated: it may be a secret.
            raise SourceError(f"{self._token_file} holds no token; write it on one line, in ASCII")
        return {"Authorization": f"Bearer {token}"}


def _whole(response: HTTPResponse) -> bytes:
    """An answer, or as much of it as is too much."""
    pieces = []
    size = 0
    end = monotonic() + _ANSWER_SECONDS
    while size <= _ANSWER_BYTES_MAX and (piece := response.read1(_READ_BYTES)):
        if monotonic() > end:
            raise TimeoutError(f"the answer did not come within {_ANSWER_SECONDS:g} s")
        pieces.append(piece)
        size += len(piece)
    return b"".join(pieces)


def _error_text(error: urllib.error.HTTPError) -> str:
    if "location" in error.headers:
        return f"leads to {error.headers['location']:.200}; give its own address as url"
    try:
        with error:
            return str(json.loads(error.read(1 << 16))["error"])
    except (OSError, HTTPException, ValueError, KeyError, TypeError, RecursionError):
        return error.reason


# One poll


def poll(
    ask: Answers, slo: StandaloneSlo, settings: Prometheus, first: int, end: int, sli_hash: int
) -> Polled:
    """What an SLO counted in the minutes from `first` on, before `end`.

    Raises:
        SourceError: Prometheus does not say.
    """
    sli = slo.sli.prometheus
    assert sli is not None
    old: set[_Scrape] = set()
    total, births = _count(ask, sli.total, settings, first, end, old)
    part, part_births = _count(ask, sli.part, settings, first, end, old)
    counts = []
    for minute in sorted(total.keys() | part.keys()):
        mine = min(part.get(minute, 0), _WEIGHT_MAX)
        rest = max(min(total.get(minute, 0), _WEIGHT_MAX) - mine, 0)
        good, bad = (mine, rest) if sli.good is not None else (rest, mine)
        if good or bad:
            counts.append((minute, good, bad))
    return Polled(slo.name, sli_hash, first, end, tuple(counts), births + part_births)


def _count(
    ask: Answers, query: str, settings: Prometheus, first: int, end: int, old: set[_Scrape]
) -> tuple[_Minutes, int]:
    """Events by minute, and how many series were refused when they were born.

    `old` holds the scrapes that found an old process; those of this query are added.
    """
    if is_selector(query):
        return _increases(ask, query, settings, first * 60, end * 60, old)
    found = ask(
        "query_range",
        {"query": query, "start": str((first + 1) * 60), "end": str(end * 60), "step": "60"},
    )
    minutes: _Minutes = defaultdict(int)
    for one in found:
        for time, text in one.get("values", []):
            # What was not asked for might be what no pipeline can take from the log.
            if first * 60 < time <= end * 60:
                minutes[round(time) // 60 - 1] += _millionths(float(text))
    return minutes, 0


def _increases(
    ask: Answers, selector: str, settings: Prometheus, start: int, end: int, old: set[_Scrape]
) -> tuple[_Minutes, int]:
    near = start - _NEAR_SECONDS
    lookback = settings.lookback // SECOND
    before = {
        _labels(one): float(one["value"][1])
        for one in ask(
            "query",
            {"query": f"last_over_time({selector}[{lookback}s])", "time": str(near)},
        )
        if "value" in one
    }
    found = ask("query", {"query": f"{selector}[{end - near}s]", "time": str(end)})
    known: list[list[_Sample]] = []
    born: dict[_Labels, list[_Sample]] = {}
    for one in found:
        samples = [(float(time), float(text)) for time, text in one.get("values", [])]
        samples = [each for each in samples if near <= each[0] <= end and not isnan(each[1])]
        labels = _labels(one)
        if labels in before:
            known.append([(float(near), before[labels]), *samples])
        elif samples and samples[0][0] <= start:
            known.append(samples)
        elif samples:
            born[labels] = samples
    old |= {
        _scrape(labels, samples[0])
        for labels, samples in born.items()
        if samples[0][1] > settings.births_max
    }
    births = 0
    for labels, samples in born.items():
        is_old = _scrape(labels, samples[0]) in old
        births += is_old
        # What has just begun counted from 0.
        known.append(samples if is_old else [(samples[0][0], 0.0), *samples])
    minutes: _Minutes = defaultdict(int)
    for samples in known:
        for last, sample in pairwise(samples):
            if sample[0] > start:
                _spread(minutes, _added(last, sample), last[0], sample[0])
    return minutes, births


def _labels(one: Mapping[str, Any]) -> _Labels:
    return frozenset(one["metric"].items())


def _scrape(labels: _Labels, sample: _Sample) -> _Scrape:
    """Which scrape found a sample; of a series without an instance nobody knows, but its own."""
    target = {label for label in labels if label[0] in ("job", "instance")}
    whole = any(name == "instance" for name, _ in target)
    return frozenset(target) if whole else labels, sample[0]


def _added(last: _Sample, sample: _Sample) -> float:
    """How many events a sample adds to the one before."""
    return sample[1] - last[1] if sample[1] >= last[1] else sample[1]


def _spread(minutes: _Minutes, added: float, began: float, ended: float) -> None:
    # Not in whole events: a part must not be spread otherwise than the total that it is of.
    weight = _millionths(added)
    if weight:
        times = round(began * SECOND), max(round(ended * SECOND), round(began * SECOND) + 1)
        for time, share in spread(weight, *times, 1):
            minutes[time // MINUTE] += share


def _millionths(events: float) -> int:
    """Nothing where Prometheus says NaN, or what no events can be."""
    return round(events * MILLIONTHS) if 0 < events < _EVENTS_MAX else 0


# Polling


class Covered(NamedTuple):
    """The minutes of an SLO that have been read: from `first` on, before `end`."""

    first: int
    end: int


class Poller:
    """Keeps the SLOs of a pipeline up to date, from whichever thread calls it."""

    def __init__(
        self,
        append: Callable[[Kind, Encoding, bytes], object],
        pipeline: Callable[[], Pipeline],
        api: Callable[[Prometheus], Answers] = HttpApi,
    ) -> None:
        """Takes what it needs from outside.

        Args:
            append: Makes a record durable.
            pipeline: The one that runs now; it has read the whole log.
            api: Whom to ask.
        """
        self._append = append
        self._pipeline = pipeline
        self._api = api
        self._appended: dict[int, Covered] = {}
        self._chunk = CHUNK_MINUTES
        self._retry_at = 0
        self._results = {"ok": 0, "failed": 0}
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, now: Callable[[], int], ready: Callable[[], bool]) -> None:
        """Polls in a thread of its own once the log has been read."""

        def run() -> None:
            while not self._stopping.wait(1.0):
                if ready():
                    try:
                        self.catch_up(now())
                        self._fill_some(now())
                    except Exception as error:  # whatever it is, it is tried again
                        logger.exception("polling met a defect")
                        self._failed(now(), error)

        self._thread = threading.Thread(target=run, name="prometheus", daemon=True)
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """Asks for no more; what hangs is left alone after so long."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(seconds)

    def catch_up(self, now_unix_nano: int) -> None:
        """Reads every minute that has closed since the last time, of every SLO."""
        pipeline = self._pipeline()
        settings = pipeline.config.prometheus
        if settings is None or now_unix_nano < self._retry_at:
            return
        target = (now_unix_nano - settings.delay) // MINUTE
        ask = self._api(settings)
        for number, slo in pipeline.polled.slos:
            oldest = target - slo.window // MINUTE
            covered = self._covered(pipeline, number)
            every = settings.every // MINUTE
            at = max(covered.end, oldest) if covered else target - every
            if target - at < every or self._stopping.is_set():
                continue
            try:
                while at < target and not self._stopping.is_set():
                    end = min(at + self._chunk, target)
                    at = end if self._read(ask, pipeline, number, slo, Covered(at, end)) else at
            except Refused as error:  # one SLO's query must not keep the others waiting
                self._failed(now_unix_nano, error)
            except OutcomeExporterError as error:
                self._failed(now_unix_nano, error)
                return

    def backfill(self, now_unix_nano: int) -> Iterator[tuple[str, int, int]]:
        """Reads what lies before, the latest first, until every SLO's window is full.

        Yields:
            Of an SLO: its name, minutes read, minutes to read. It may be stopped at any time, and
            goes on from there the next time.

        Raises:
            Refused: Prometheus does not answer the query of an SLO; the others have been read.
            SourceError: Prometheus does not say.
        """
        pipeline = self._pipeline()
        settings = pipeline.config.prometheus
        if settings is None:
            return
        target = (now_unix_nano - settings.delay) // MINUTE
        ask = self._api(settings)
        refused: Refused | None = None
        for number, slo in pipeline.polled.slos:
            oldest = target - slo.window // MINUTE
            covered = self._covered(pipeline, number)
            end = covered.first if covered else target
            todo = max(end - oldest, 0)
            yield slo.name, 0, todo
            try:
                while end > oldest:
                    new = Covered(max(end - self._chunk, oldest), end)
                    end = new.first if self._read(ask, pipeline, number, slo, new) else end
                    yield slo.name, todo - (end - oldest), todo
            except Refused as error:
                refused = refused or error
        if refused is not None:
            raise refused

    def _fill_some(self, now_unix_nano: int) -> None:
        """Goes a step back in history, where the configuration asks for it."""
        settings = self._pipeline().config.prometheus
        if settings is None or not settings.backfill or now_unix_nano < self._retry_at:
            return
        try:
            next((step for step in self.backfill(now_unix_nano) if step[1]), None)
        except OutcomeExporterError as error:
            self._failed(now_unix_nano, error)

    def _failed(self, now_unix_nano: int, error: Exception) -> None:
        self._results["failed"] += 1
        self._retry_at = now_unix_nano + _RETRY
        logger.warning("SLOs wait for Prometheus: %s", error)

    def _covered(self, pipeline: Pipeline, number: int) -> Covered | None:
        """What was read, whether or not the pipeline has taken it from the log yet."""
        known = pipeline.polled.covered(number)
        mine = self._appended.get(int(pipeline.plan.salts[number]))
        if known is None or mine is None:
            return mine or (Covered(*known) if known else None)
        return Covered(min(known[0], mine.first), max(known[1], mine.end))

    def _read(
        self,
        ask: Answers,
        pipeline: Pipeline,
        number: int,
        slo: StandaloneSlo,
        new: Covered,
    ) -> bool:
        """Reads minutes into the log; False where that was too much at once."""
        settings = pipeline.config.prometheus
        assert settings is not None
        sli_hash = int(pipeline.plan.salts[number])
        try:
            polled = poll(ask, slo, settings, *new, sli_hash)
        except Refused as error:
            if isinstance(error, TooMuch) and self._chunk > _CHUNK_MINUTES_MIN:
                self._chunk //= 2
                return False
            raise Refused(f"SLO {slo.name}: {error}") from None
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            problem = f"no Prometheus answers so: {error!r}"
            raise Refused(f"SLO {slo.name}: {problem}") from None
        self._append(Kind.POLLED, Encoding.NONE, encode_polled(polled))
        covered = self._covered(pipeline, number) or new
        self._appended[sli_hash] = Covered(min(covered.first, new.first), max(covered.end, new.end))
        self._results["ok"] += 1
        return True

    def snapshot(self) -> Snapshot:
        """How it goes."""
        return {
            series.SOURCE_POLLS: [
                Sample(("prometheus", result), float(count))
                for result, count in self._results.items()
            ]
        }
