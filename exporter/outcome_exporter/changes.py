"""Changes that events tell: deployments, roll-backs, feature flags.

State: for each service and flag the versions (or variants) that were told, with times. Input:
business events, in the log's order. Output: changes of the last day, newest first. What is read:

| kind | event | service | version |
| --- | --- | --- | --- |
| `deployment` | `dev.cdevents.service.deployed.*`, `….upgraded.*` | subject's id | artifact's |
| `rollback` | `dev.cdevents.service.rolledback.*` | subject's id | artifact's |
| `flag` | `feature_flag.evaluation`, of OTLP logs or of spans | the sender | `key=variant` |
| as configured | `causes.changes` | a path | a path |

A CDEvent comes as a CloudEvent whose `data` it is. Of the subject's id the part after the last
`/` counts (`deployment/payment`); the artifact is a package URL, whose version is its `tag`, else
what follows its `@`, a digest cut to 12 digits as registries show it. `published` and `removed`
tell no version. Events of other environments than `causes.environment` are left out.

What is deployed is a change each time it is told. A flag is evaluated all the time: its variant
is a change when no evaluation gave it for an hour and others were given for a minute before, so
that an experiment, whose variants are all given all the time, is none.

What is told twice changes nothing, since the times are the events' own. Bounded: 20 versions of
each service and flag, `limits.changes` of these; what was told longest ago goes, and is counted.
"""

import json
import re
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any, NamedTuple, TypeVar
from urllib.parse import parse_qs, unquote

import numpy as np

from outcome_exporter.config import Config
from outcome_exporter.events import lookup, text_of
from outcome_exporter.model import FLAG_EVENT, BusinessEvent
from outcome_exporter.plan import Arrays
from outcome_exporter.units import DAY, HOUR, MINUTE, SECOND

DEPLOYMENT, ROLLBACK, FLAG = "deployment", "rollback", "flag"
KEPT = DAY
"""How long a change is told."""
_FLAG_QUIET = HOUR
"""Without an evaluation for so long, a variant is a change when it comes again."""
_VARIANT = ("result.variant", "variant", "result.value")
"""Where an evaluation says what the flag gave; the second is the older name of the first."""
_FLAG_KNOWN = MINUTE
"""For so long a flag must have been evaluated before another variant of it is a change."""
_TEXT_MAX = 100
_VERSIONS_MAX = 20
_DIGEST = re.compile(r"(?:sha\d+:)?([0-9a-f]{12})[0-9a-f]{28,}")
_CDEVENT = re.compile(r"dev\.cdevents\.service\.(deployed|upgraded|rolledback)\..+")
_CDEVENT_KINDS = {"deployed": DEPLOYMENT, "upgraded": DEPLOYMENT, "rolledback": ROLLBACK}


def followed(changed: float, began: float) -> bool:
    """Whether pain that began then may come of a change, both in seconds.

    In the two hours after it, or the minute before: clocks differ, and an event may be sent once
    all is done.
    """
    return -MINUTE <= (began - changed) * SECOND <= 2 * HOUR


class Change(NamedTuple):
    """Something that changed at a service."""

    service: str
    kind: str
    version: str
    previous: str
    """Empty where nobody said."""
    time: int
    """ns."""


@dataclass(slots=True)
class _Told:
    """A version or variant that was told."""

    kind: str
    began: int
    last: int
    previous: str | None
    """None: it is no change, since nothing was known before it."""


class _Read(NamedTuple):
    """What an event tells."""

    service: str
    kind: str
    version: str
    previous: str = ""
    flag: str = ""
    """Key of the flag whose variant the version is."""


_Key = TypeVar("_Key")
_Subject = tuple[str, str]
"""Service and flag, or no flag."""


class Changes:
    """The stage's state."""

    def __init__(self, config: Config) -> None:
        """Nothing was told."""
        self._limit = config.limits.changes
        self._environment = config.causes.environment
        self._mapped = {each.event: each for each in config.causes.changes}
        # Subjects and their versions, each in the order in which they were told last.
        self._told: dict[_Subject, dict[str, _Told]] = {}
        self.overflow = 0

    def listens(self, event_type: str) -> bool:
        """Whether events of a type may tell a change."""
        return (
            event_type == FLAG_EVENT
            or event_type in self._mapped
            or _CDEVENT.fullmatch(event_type) is not None
        )

    def take(self, event: BusinessEvent, time: int) -> None:
        """Reads an event that happened at `time`, in ns; one that tells no change is ignored."""
        read = self._read(event)
        if read is None or not read.service or not read.version:
            return
        read = read._replace(
            **{name: text[:_TEXT_MAX] for name, text in read._asdict().items() if text}
        )
        versions = self._told.pop((read.service, read.flag), {})
        known = versions.pop(read.version, None)
        before = read.previous or max(
            versions, key=lambda version: (versions[version].last, version), default=""
        )
        evaluated = event.type == FLAG_EVENT
        if known is not None and time <= known.last + _FLAG_QUIET * evaluated:
            known.last = max(known.last, time)
        else:
            first = min((told.began for told in versions.values()), default=time)
            is_change = not evaluated or first <= time - _FLAG_KNOWN
            known = _Told(read.kind, time, time, before if is_change else None)
        versions[read.version] = known
        self._told[read.service, read.flag] = versions
        self.overflow += _forget_first(versions, _VERSIONS_MAX)
        self.overflow += _forget_first(self._told, self._limit)

    def _read(self, event: BusinessEvent) -> _Read | None:
        mapped = self._mapped.get(event.type)
        if mapped is not None:
            paths = (mapped.version, mapped.previous, mapped.flag)
            return _Read(_at(event, mapped.service), mapped.kind, *(_at(event, p) for p in paths))
        if event.type == FLAG_EVENT:
            said = (_at(event, f"data.feature_flag.{name}") for name in _VARIANT)
            return _Read(
                service=event.source,
                kind=FLAG,
                version=next(filter(None, said), ""),
                flag=_at(event, "data.feature_flag.key"),
            )
        predicate = _CDEVENT.fullmatch(event.type)
        content = "data.subject.content"
        environment = _at(event, f"{content}.environment.id")
        if predicate is None or not fnmatchcase(environment, self._environment):
            return None
        return _Read(
            service=_at(event, "data.subject.id").rpartition("/")[2],
            kind=_CDEVENT_KINDS[predicate[1]],
            version=_version(_at(event, f"{content}.artifactId")),
        )

    def changes(self, now: int) -> list[Change]:
        """The changes of the last day until `now`, in ns; the newest first."""
        found = [
            Change(
                service, told.kind, _named(flag, version), _named(flag, told.previous), told.began
            )
            for (service, flag), versions in self._told.items()
            for version, told in versions.items()
            if told.previous is not None and told.began > now - KEPT
        ]
        found.sort(key=lambda change: (-change.time, change))
        return found

    # Checkpoints

    def dump(self) -> Arrays:
        """What a checkpoint keeps."""
        rows = [
            [*subject, version, asdict(told)]
            for subject, versions in self._told.items()
            for version, told in versions.items()
        ]
        text = json.dumps({"told": rows, "overflow": self.overflow}).encode()
        return {"told": np.frombuffer(text, np.uint8)}

    def restore(self, arrays: Arrays) -> None:
        """Takes over what `dump` gave."""
        found = json.loads(arrays["told"].tobytes())
        for service, flag, version, told in found["told"]:
            self._told.setdefault((service, flag), {})[version] = _Told(**told)
        self.overflow = found["overflow"]


def _forget_first(told: dict[_Key, Any], most: int) -> int:
    """Lets go what was told longest ago; returns how many that were."""
    if len(told) <= most:
        return 0
    del told[next(iter(told))]
    return 1


def _at(event: BusinessEvent, path: str | None) -> str:
    return text_of(lookup(path)(event.fields)) if path else ""


def _named(flag: str, version: str) -> str:
    return f"{flag}={version}" if flag and version else version


def _version(artifact: str) -> str:
    """The version of a package URL, else the artifact as it is called."""
    if not artifact.startswith("pkg:"):
        return artifact
    name, _, qualifiers = artifact.partition("#")[0].partition("?")
    tag = parse_qs(qualifiers).get("tag", [""])[0]
    version = tag or unquote(name.rpartition("@")[2] if "@" in name else "")
    digest = _DIGEST.fullmatch(version)
    return digest[1] if digest else version
