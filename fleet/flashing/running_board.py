"""An agent onto a board that runs: looked at, installed beside whatever is there, joined, and waited for until it watches.

::

    facts ─► fit? ─► bundle (by hash, unless it is there) ─► tried: fedge-agent --version ─► named ─► join file ─► fedge-agent join ─► watching

Until the new tree has run once, the board's own is untouched. Again with the same words: what was done is not done twice.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fleet.device_bundle.archive import DeviceBundle
from fleet.flashing.board_facts import PROGRAM, QUESTION, BoardFacts, check_board, clock_words, read_facts
from fleet.flashing.board_shell import BoardShell
from fleet.flashing.join_check import Source
from fleet.flashing.programs import FlashError
from protocol.messages.kinds import AgentState
from runtime.errors import SettingsError

__all__ = ["Boarding", "install_on_board"]

_POLL_S: Final = 3.0
_LONGEST_S: Final = 900.0
"""How long this command waits for the first windows; the agent goes on for ever."""
_WATCHES: Final = {AgentState.WATCHING, AgentState.COMMISSIONING}
_UNPACK: Final = """
import hashlib, os, re, sys, tarfile
new, python, sha256 = sys.argv[1:]
path = os.path.join(new, "bundle.tar.xz")
with open(path, "rb") as file:
    found = hashlib.sha256(file.read()).hexdigest()
if found != sha256:
    sys.exit("the bundle did not arrive whole: try again")
with tarfile.open(path) as archive:
    archive.extractall(new, **({"filter": "fully_trusted"} if hasattr(tarfile, "fully_trusted_filter") else {}))
os.remove(path)
link = os.path.join(new, "bin", "python")
os.remove(link)
os.symlink(python, link)
settings = os.path.join(new, "pyvenv.cfg")
with open(settings) as file:
    text = file.read()
text = re.sub("(?m)^home = .*$", lambda _: "home = " + os.path.dirname(python), text)
text = re.sub("(?m)^executable = .*$", lambda _: "executable = " + python, text)
with open(settings, "w") as file:
    file.write(text)
with open(os.path.join(new, "bundle.sha256"), "w") as file:
    file.write(sha256 + "\\n")
"""
_INSTALL: Final = """
set -eu
umask 022
mkdir -p "${1%/*}"
[ -e "$1" ] || [ ! -e "$1".old ] || mv "$1".old "$1"
rm -rf "$1".new "$1".old
trap 'rm -rf "$1".new' EXIT
mkdir "$1".new
cat > "$1".new/bundle.tar.xz
"$2" -c "$4" "$1".new "$2" "$3"
"$1".new/bin/fedge-agent --version
[ ! -e "$1" ] || mv "$1" "$1".old
mv "$1".new "$1"
rm -rf "$1".old
"""
_KEEP: Final = 'set -eu; umask 077; mkdir -p "${1%/*}"; cat > "$1".part; mv "$1".part "$1"'


@dataclass(frozen=True, kw_only=True)
class Boarding:
    """What goes onto the board, and what it is to watch."""

    bundle: DeviceBundle
    join_file: Path
    device: str
    source: Source


def install_on_board(shell: BoardShell, boarding: Boarding, hear: Callable[[str], None]) -> None:
    """Return once the device watches; `hear` is told each step.

    Raises:
        SettingsError: the board cannot take this agent; nothing was changed there.
        FlashError: a step failed on the board; says which, and in whose words.
    """
    facts = read_facts(shell.run(["sh", "-c", QUESTION, "sh", PROGRAM]))
    python = check_board(facts, boarding.bundle, shell.place)
    hear(
        f"{shell.place}: {facts.machine} with {python}, as {facts.user}{'' if facts.is_root else ', without root'}"
    )
    if words := clock_words(facts, time.time()):
        hear(words)
    is_new = _bring_bundle(shell, facts, boarding.bundle, python, hear)
    place = f"{facts.state}/first-boot"
    join = f"{place}/{boarding.device}.join"
    shell.run(_as(facts, ["sh", "-c", _KEEP, "sh", join]), boarding.join_file)
    if boarding.source.file is not None:
        shell.run(
            _as(facts, ["sh", "-c", _KEEP, "sh", boarding.source.on_device(place)]), boarding.source.file
        )
    if _join(shell, facts, boarding, join, hear) and is_new:
        hear(f"what runs is the agent of before, until {boarding.device}'s is started again, or the board")
    shell.run(_as(facts, ["rm", "-f", join]))


def _bring_bundle(
    shell: BoardShell, facts: BoardFacts, bundle: DeviceBundle, python: str, hear: Callable[[str], None]
) -> bool:
    """Whether it is another one than was there."""
    try:
        content = bundle.path.read_bytes()
    except OSError as error:
        raise SettingsError(f"cannot read {bundle.path}: {error.strerror or error}") from None
    sha256 = hashlib.sha256(content).hexdigest()
    if facts.bundles.get(facts.agent) == sha256:
        hear(f"{facts.agent}: this bundle is there already")
        return False
    began = time.monotonic()
    said = shell.run(_as(facts, ["sh", "-c", _INSTALL, "sh", facts.agent, python, sha256, _UNPACK]), content)
    hear(f"{facts.agent}: {said.strip()}, installed in {time.monotonic() - began:.0f} s")
    return True


def _join(
    shell: BoardShell, facts: BoardFacts, boarding: Boarding, join: str, hear: Callable[[str], None]
) -> bool:
    """Whether its agent ran already."""
    agent, folder = f"{facts.agent}/bin/fedge-agent", f"{facts.state}/{boarding.device}"
    source = boarding.source.on_device(f"{facts.state}/first-boot")
    has_unit = facts.is_root and facts.has_systemd
    words = [
        agent,
        "join",
        join,
        "--source",
        source,
        "--state",
        folder,
        *([] if has_unit else ["--background"]),
    ]
    said: list[str] = []

    def note(line: str) -> None:
        said.append(line)
        hear(line)

    status = shell.follow(_as(facts, words), note)
    if status != 0:
        raise FlashError(
            f"{shell.place}: fedge-agent join ended with {status}: {said[-1] if said else 'without a word'}"
        )
    if not has_unit:
        hear(
            f"no systemd unit: nothing starts it again after a restart of the board ({'no systemd' if facts.is_root else 'no root'})"
        )
    ran = any(" runs already" in line for line in said)
    if any(line.startswith("watching") for line in said):
        return ran
    until_s = time.monotonic() + _LONGEST_S
    while (state := _state(shell, facts, agent, folder)) not in _WATCHES:
        if (
            state == AgentState.WAITING_FOR_RELEASE
        ):  # join has waited for a minute by then; a person must give it one
            hear(
                f"{boarding.device} has joined, and watches once a rollout gives it a release: fedge rollouts"
            )
            return ran
        if time.monotonic() > until_s:
            raise FlashError(
                f"{shell.place}: {boarding.device} has joined and is {state} still; it goes on: {agent} status --config {folder}/agent.toml"
            )
        time.sleep(_POLL_S)
    hear(f"{boarding.device} is {state}")
    return ran


def _state(shell: BoardShell, facts: BoardFacts, agent: str, folder: str) -> str:
    """In the words of the agent's health; "not running" where it says nothing."""
    script = '"$1" status --config "$2" --json || true'
    answer = shell.run(_as(facts, ["sh", "-c", script, "sh", agent, f"{folder}/agent.toml"]))
    try:
        return str(json.loads(answer)["health"]["state"])
    except (ValueError, KeyError, TypeError):
        return "not running"


def _as(facts: BoardFacts, words: list[str]) -> list[str]:
    return ["sudo", "-n", *words] if facts.rights == "sudo" else words
