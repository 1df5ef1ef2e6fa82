"""Joins traces, metrics and business events into customer outcomes, as Prometheus series."""

__version__ = "0.1.0"
