"""Completion for the shell: the words of ``fedge`` itself, and what follows them as their owner completes it.

::

    shell ─► _FEDGE_COMPLETE=complete_bash fedge ─► first word: ours
                                               └─► else fedge-fleet … as if it had been typed ─► its own completion

The two shells that the owners' library speaks with words and a number, or one string: bash and zsh.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Final, NamedTuple

__all__ = ["SCRIPTS", "Completed", "completed_words", "hand_over", "is_completing", "matching"]

VARIABLE: Final = "_FEDGE_COMPLETE"

SCRIPTS: Final = {
    "bash": """\
_fedge_completion() {
    local IFS=$'\\n'
    COMPREPLY=( $( env COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD=$COMP_CWORD _FEDGE_COMPLETE=complete_bash $1 ) )
    return 0
}
complete -o default -F _fedge_completion fedge
""",
    "zsh": """\
#compdef fedge
_fedge_completion() {
  eval $(env _TYPER_COMPLETE_ARGS="${words[1,$CURRENT]}" _FEDGE_COMPLETE=complete_zsh fedge)
}
compdef _fedge_completion fedge
""",
}
"""Shell → what its start-up file evaluates."""


class Completed(NamedTuple):
    """The words typed so far, ``fedge`` first, and which of them is being completed."""

    words: list[str]
    at: int


def is_completing(environment: Mapping[str, str]) -> bool:
    """Whether a shell asks, and no person."""
    return VARIABLE in environment


def completed_words(environment: Mapping[str, str]) -> Completed:
    """What the shell says was typed."""
    if environment[VARIABLE] == "complete_zsh":
        typed = environment.get("_TYPER_COMPLETE_ARGS", "")
        words = _split(typed)
        at = len(words) if typed.endswith(" ") else max(len(words) - 1, 0)
    else:
        words = _split(environment.get("COMP_WORDS", ""))
        number = environment.get("COMP_CWORD", "")
        at = int(number) if number.isdecimal() else len(words)
    return Completed(words, at)


def matching(typed: Completed, commands: Iterable[str], environment: Mapping[str, str]) -> str:
    """The commands that the first word may become, as the shell takes them."""
    begun = typed.words[typed.at] if typed.at < len(typed.words) else ""
    found = [command for command in commands if command.startswith(begun)]
    if environment[VARIABLE] == "complete_zsh":
        return f"_arguments '*: :({' '.join(found)})'" if found else "_files"
    return "\n".join(found)


def hand_over(
    typed: Completed, program: str, words: Iterable[str], environment: MutableMapping[str, str] = os.environ
) -> None:
    """Have `program` complete what follows, as if its own `words` had been typed in the place of ours."""
    instruction = environment.pop(VARIABLE)
    owned = [program, *words, *typed.words[2:]]
    environment[f"_{program.replace('-', '_').upper()}_COMPLETE"] = instruction
    at = typed.at + len(owned) - len(typed.words)
    environment["COMP_WORDS"], environment["COMP_CWORD"] = shlex.join(owned), str(at)
    ends = " " if typed.at >= len(typed.words) else ""
    environment["_TYPER_COMPLETE_ARGS"] = shlex.join(owned) + ends


def _split(text: str) -> list[str]:
    """As a shell does; a quote that is still open is no error while somebody types."""
    try:
        return shlex.split(text)
    except ValueError:
        return text.split()
