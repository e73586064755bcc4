"""``python -m simulations`` is ``fedge-sim``."""

from simulations.cli import main

main()
