"""``python -m fedge`` is the command ``fedge``."""

from fedge.cli import main

main()
