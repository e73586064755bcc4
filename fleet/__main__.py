"""``python -m fleet`` is ``fedge-fleet``."""

from fleet.cli import main

if __name__ == "__main__":
    main()
