"""Names of the dashboards in addresses. They never change: bookmarks and alerts hold them."""

OUTCOMES = "outcome-outcomes"
JOURNEY = "outcome-journey"
SERVICE = "outcome-service"
BUDGETS = "outcome-budgets"
EXPORTER = "outcome-exporter"
