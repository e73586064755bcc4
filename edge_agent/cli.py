"""``fedge-agent``: enrol, run, status, check-config.

``run`` is resident, so it is recognised before typer and rich are imported: they cost ten megabytes that a device
would carry for ever. Everything else is for people (`edge_agent.commands`) and takes their comfort.
"""

from __future__ import annotations

import sys
from pathlib import Path

from runtime.errors import FedgeError
from runtime.printable import printable

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit status (0 fine, 1 not fine, 2 wrong use or configuration)."""
    words = sys.argv[1:] if arguments is None else arguments
    if len(words) == 3 and words[:2] == ["run", "--config"]:
        from edge_agent.app import run  # The resident path: nothing of typer or rich.

        return run(Path(words[2]))
    return _command_line(words)


def _command_line(words: list[str]) -> int:
    # People wait 0.2 s for help texts; a resident agent does not carry them.
    from click import ClickException
    from typer.main import get_command

    from edge_agent.commands.application import application

    try:
        status = get_command(application).main(args=words, prog_name="fedge-agent", standalone_mode=False)
    except ClickException as error:
        error.show()
        return 2
    except FedgeError as error:
        print(f"fedge-agent: {printable(str(error))}", file=sys.stderr)
        return 2
    return status if isinstance(status, int) else 0
