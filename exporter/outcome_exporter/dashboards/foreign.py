"""Series of others that the dashboards show where they are there; the exporter does without.

Panels that read them say so, and stay empty without them.
"""

from outcome_exporter.series import Family

CONTAINER_CPU = Family(
    "container_cpu_usage_seconds_total", "counter", "cAdvisor, in every kubelet.", ("container",)
)
CONTAINER_MEMORY = Family(
    "container_memory_working_set_bytes", "gauge", "cAdvisor, in every kubelet.", ("container",)
)
SERVICE_GRAPH_REQUESTS = Family(
    "traces_service_graph_request_total",
    "counter",
    "The Collector's servicegraph connector.",
    ("client", "server"),
)
