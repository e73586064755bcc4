"""What cannot be undone is asked for twice: a person types its name, a program sends it as `confirm`."""

from __future__ import annotations

from typing import Annotated

import typer
from pydantic import BaseModel, ConfigDict, Field

from runtime.errors import Refused
from service.errors import ClientError, InvalidBodyError

__all__ = ["Confirmation", "YesOption", "ask_for_name", "check_confirmed"]

YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask: for scripts")]


class Confirmation(BaseModel):
    """`confirm` repeats the name of what is meant."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"confirm": "press-1"}})
    confirm: str = Field(max_length=200)


def check_confirmed(asked: Confirmation | None, name: str, deed: str) -> None:
    """Raise InvalidBodyError where `asked` does not repeat `name`; `deed` says what would be done, e.g. ``erasing press-1``."""
    given = None if asked is None else asked.confirm
    if given != name:
        said = "no confirm was sent" if given is None else f"confirm is {given[:80]!r}"
        raise InvalidBodyError(
            f'{deed} cannot be undone, and {said}; to go on send {{"confirm": "{name[:80]}"}}'
        ).about(Refused(field="confirm", value=given and given[:80], allowed=[name[:80]]))


def ask_for_name(name: str, deed: str, *, yes: bool) -> None:
    """Have a person at the terminal type `name`, unless `yes`; raises ClientError where something else is typed, or nothing."""
    if yes:
        return
    try:
        typed = typer.prompt(
            f"{deed} cannot be undone. Type {name} to go on", default="", show_default=False, err=True
        )
    except typer.Abort:
        typed = ""
    if typed.strip() != name:
        raise ClientError(f"nothing was done: {name!r} was not typed (--yes does not ask)")
