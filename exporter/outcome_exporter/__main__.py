"""`python -m outcome_exporter` is the same as `outcome-exporter`."""

from outcome_exporter.cli import main

main()
