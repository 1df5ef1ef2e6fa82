"""Grafana dashboards, generated: which journeys fail, what it costs, and who is to blame.

Five files of classic JSON, made from the list of series and the formulas that the exporter itself
uses, so that a panel cannot read a series or a label that does not exist. Without a configuration
they serve every one, through variables; a configuration adds what it knows.

    series ─▶ promql ─▶ judged ─▶ panels ─▶ outcomes, journey, service, budgets, exporter
              alerting ─┘         health ─┘

Needs the extra `generate`.
"""

import json

from outcome_exporter.config import Config
from outcome_exporter.dashboards import budgets, exporter, journey, knowledge, outcomes, service
from outcome_exporter.dashboards.sdk import JSONEncoder

_BUILDERS = (outcomes, journey, service, budgets, exporter)


def generate(config: Config | None) -> dict[str, str]:
    """All dashboards: name of the file → JSON, in the order in which one reads them."""
    known = knowledge.Knowledge() if config is None else knowledge.read(config)
    boards = [builder.build(known) for builder in _BUILDERS]
    return {
        f"{board.uid}.json": json.dumps(board, cls=JSONEncoder, indent=1, ensure_ascii=False) + "\n"
        for board in boards
    }
