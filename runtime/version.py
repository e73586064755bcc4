"""Which version of all this is installed, and what ``--version`` of a program does."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version

__all__ = ["installed_version", "version_option"]


def installed_version() -> str:
    """Of the installed distribution ``fedge``."""
    return version("fedge")


def version_option(program: str) -> Callable[[bool], None]:
    """What an eager option ``--version`` of `program` calls: prints its name and version and leaves with status 0, where it is given."""

    def say(is_asked: bool) -> None:  # noqa: FBT001 - what the option hands over
        if is_asked:
            print(f"{program} {installed_version()}")  # noqa: T201 - what was asked for
            raise SystemExit(0)

    return say
