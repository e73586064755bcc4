"""``fedge``: one command for everything; each word goes to the program that owns it, loaded only then.

Exit status: the owner's; 2 for a word that nobody owns or a part that is not installed.
"""

from __future__ import annotations

import difflib
import os
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Final, NamedTuple

from fedge.completion import SCRIPTS, completed_words, hand_over, is_completing, matching

__all__ = ["COMMANDS", "Command", "main"]


class Command(NamedTuple):
    """What a word stands for: a program of ours, and the words that it is called with."""

    program: str
    words: tuple[str, ...]
    summary: str

    @property
    def package(self) -> str:
        """The package whose ``cli.main`` is the program."""
        return {"agent": "edge_agent", "sim": "simulations"}.get(self.program, self.program)


COMMANDS: Final = {
    "study": Command("sim", ("study",), "would this help with my machines? a report of their recordings"),
    "demo": Command("sim", ("run", "demo"), "the whole loop, live, on this machine"),
    "simulate": Command("sim", ("run",), "play a scenario of your own"),
    "init": Command("fleet", ("init",), "make a plant: certificates, keys, settings, broker, in one command"),
    "up": Command("fleet", ("up",), "start the plant's broker, fleet and aggregator, supervised"),
    "down": Command("fleet", ("down",), "end what up has started"),
    "status": Command("fleet", ("status",), "devices, alarms, rollout, run and problems, live with --watch"),
    "doctor": Command("fleet", ("doctor",), "what is well with the plant, what is not, what to do"),
    "model": Command("aggregator", ("model",), "a first model out of recordings, for the plant's fleet"),
    "sign-in": Command("fleet", ("sign-in",), "a link that signs your browser in at the dashboard"),
    "device": Command("fleet", ("devices",), "add a device: one file to join with"),
    "devices": Command("fleet", ("devices",), "list, show, revoke devices"),
    "releases": Command("fleet", ("releases",), "publish and list model versions"),
    "rollouts": Command("fleet", ("rollouts",), "preview, create, watch, stop rollouts"),
    "anomalies": Command("fleet", ("anomalies",), "what devices reported"),
    "drift": Command("fleet", ("drift",), "which devices drifted"),
    "judge": Command("fleet", ("judge",), "say whether an anomaly was one"),
    "backup": Command("fleet", ("backup",), "everything of a plant in one file, while it runs"),
    "upgrade": Command("fleet", ("upgrade",), "what an upgrade would find and do (--check)"),
    "restore": Command("fleet", ("restore",), "a plant out of such a file"),
    "train": Command("aggregator", ("train",), "start a training run"),
    "runs": Command("aggregator", ("runs",), "training runs and their rounds"),
    "privacy": Command("aggregator", ("privacy",), "what a family's training has cost in privacy"),
    "join": Command("agent", ("join",), "let this device join its fleet, with the file made for it"),
    "agent": Command("agent", (), "everything of fedge-agent"),
    "fleet": Command("fleet", (), "everything of fedge-fleet"),
    "aggregator": Command("aggregator", (), "everything of fedge-aggregator"),
    "sim": Command("sim", (), "everything of fedge-sim"),
}
"""Word → who owns it."""


def main(arguments: list[str] | None = None) -> None:
    """Hand the first word to its owner; leaves by SystemExit."""
    words = sys.argv[1:] if arguments is None else arguments
    if is_completing(os.environ):
        _complete()
        raise SystemExit(0)
    if not words or words[0] in {"-h", "--help", "help"}:
        print(_help())
        raise SystemExit(0)
    if words[0] == "--version":
        from fedge import __version__  # reads the installed package's metadata, which only this word needs

        print(f"fedge {__version__}")
        raise SystemExit(0)
    if words[0] == "--show-completion":
        shell = words[1] if len(words) > 1 else Path(os.environ.get("SHELL", "bash")).name
        if shell not in SCRIPTS:
            raise SystemExit(_refused(f"no completion for {shell!r}; there is: {', '.join(SCRIPTS)}"))
        print(SCRIPTS[shell], end="")
        raise SystemExit(0)
    command = COMMANDS.get(words[0])
    if command is None:
        near = difflib.get_close_matches(words[0], COMMANDS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(COMMANDS)}"
        raise SystemExit(_refused(f"there is no command {words[0]!r}; {hint}"))
    owner = _owner(words[0], command)
    sys.argv = [f"fedge-{command.program}", *command.words, *words[1:]]
    raise SystemExit(owner.main())


def _complete() -> None:
    """Answer a shell: our own words, or what the owner of the first one says."""
    typed = completed_words(os.environ)
    if typed.at <= 1:
        print(matching(typed, COMMANDS, os.environ))
        return
    command = COMMANDS.get(typed.words[1])
    if command is not None:
        hand_over(typed, f"fedge-{command.program}", command.words)
        sys.argv = [f"fedge-{command.program}"]
        _owner(typed.words[1], command).main()


def _owner(word: str, command: Command) -> ModuleType:
    try:
        return import_module(f"{command.package}.cli")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] == command.package:
            raise
        extra = {"edge_agent": "edge", "simulations": "sim"}.get(command.package, command.package)
        raise SystemExit(
            _refused(f"{word!r} needs {error.name!r}, which is not installed: pip install 'fedge[{extra}]'")
        ) from None


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = (f"  {word:{width}}  {command.summary}" for word, command in COMMANDS.items())
    return "\n".join(
        [
            "usage: fedge COMMAND ...",
            "",
            *lines,
            "",
            "fedge COMMAND --help says more; fedge --version; fedge --show-completion bash|zsh for your shell.",
        ]
    )


def _refused(sentence: str) -> int:
    print(f"fedge: {sentence}", file=sys.stderr)
    return 2
