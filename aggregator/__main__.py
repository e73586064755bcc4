"""``python -m aggregator``: the same as ``fedge-aggregator``."""

from aggregator.cli import main

main()
