"""Prometheus rules that say who hurts, what it costs and what causes it.

    alerts    every alert as data: when it fires, and what it says
    messages  the texts, as templates that query Prometheus
    burning   when the error budget burns: for any number of SLOs at once, or for each by name
    sloth     recording rules with Sloth's names and labels
    files     all of it as YAML, for Prometheus or its operator

By default rules are **generic**: they read the thresholds that the exporter shows as series, so
that a new SLO or another objective needs no new rules. What they carry of the configuration is
what only rules can say: `alerts.severities`, `keep_firing_for` and the links.
"""
