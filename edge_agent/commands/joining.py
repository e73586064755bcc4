"""``fedge-agent join``: from a join file to a device that watches; again, after whatever ended it, it goes on.

::

    join file ─► source fits the family? ─► pinned files ─► agent.toml ─► the fleet answers? ─► enrol (the claim is used once)
                                                                               └─► systemd unit · or the attendant: until "watching"

Nothing of a later step is done before the earlier ones are on disk, and each is harmless when repeated; what is wrong is one line with
its remedy, before anything was changed where that can be.
"""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from edge_agent.commands.columns_check import first_look
from edge_agent.commands.enrolling import enrol_and_wait
from edge_agent.enrolled import load_enrolled
from edge_agent.errors import FleetConflictError, FleetDeniedError, NotEnrolledError, SourceError
from edge_agent.joining.attendant import SAY_EVERY_S, last_word, look, take_lock
from edge_agent.joining.first_calls import broker_trouble, call_fleet
from edge_agent.joining.folder import JoinedFolder
from edge_agent.joining.source_words import source_tables
from edge_agent.joining.unit import STATE, Systemd, hindrance
from edge_agent.private_file import read_private
from edge_agent.settings import Settings, load_agent_settings
from edge_agent.sources.factory import open_source
from models.columns import describe_difference
from models.recordings.questions import QuestionsOpen
from protocol.errors import JoinFileError
from protocol.join_file import MOST_BYTES, JoinFile, is_sealed, open_join_file
from runtime.errors import SettingsError
from runtime.printable import printable

__all__ = ["QUESTIONS", "Wishes", "join_device"]

QUESTIONS: Final = 3
"""The exit status where a recording can be read in several ways: answer, and join again."""
_PATIENCE_S: Final = 60.0
"""In the background, or under systemd: how long this command watches before it leaves."""


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What the command line said beside the file."""

    source: str | None = None
    answers: Sequence[str] = ()
    machine: str | None = None
    speed: float | None = None
    state: Path | None = None
    hardware: str | None = None
    passphrase_file: Path | None = None
    is_background: bool = False
    is_foreground: bool = False
    systemd: Systemd = field(default_factory=Systemd)


def join_device(file: Path, wishes: Wishes) -> int:
    """Join; returns the exit status, or does not return: in the foreground this process becomes the attendant.

    Raises:
        FedgeError: of whatever is wrong, in one line.
    """
    join = _opened(file, wishes.passphrase_file)
    labels = "".join(f", {name}={value}" for name, value in join.labels.items())
    print(printable(f"{file}: {join.device} of {join.tenant}, family {join.family}{labels}"))
    folder, by_unit = _place(join, wishes)
    lock = take_lock(folder) if folder.path.is_dir() else None
    if lock is None and folder.lock.exists():
        return _told_of_running(folder)
    if lock is not None:
        lock.close()  # whoever keeps the agent running takes it
    try:
        tables = _source(join, wishes, by_unit)
    except QuestionsOpen as asked:
        for question in asked.questions:
            print(printable(str(question)), file=sys.stderr)
        print("answer with --answer KEY=VALUE, once for each, and join again", file=sys.stderr)
        return QUESTIONS
    folder.pin(join)
    if tables is not None and by_unit:
        _bring_recording(tables["source"], folder)
    if folder.write_config(join, tables, wishes.hardware):
        print(f"{folder.config} was changed by hand, and is kept as it is")
    settings = load_agent_settings(folder.config)
    _check_source(settings, join)
    for trouble in call_fleet(settings):
        print(printable(trouble), file=sys.stderr)
    if (code := _enrol(settings, folder, join, file)) != 0:
        return code
    if settings.mqtt is not None and (trouble := broker_trouble(settings.mqtt)):
        print(printable(trouble), file=sys.stderr)
    return _start(settings, folder, join, wishes, by_unit=by_unit)


def _opened(file: Path, passphrase_file: Path | None) -> JoinFile:
    try:
        with file.open("rb") as opened:
            content = opened.read(MOST_BYTES + 1)
    except OSError as error:
        raise SettingsError(f"cannot read {file}: {error.strerror or error}") from None
    try:
        return open_join_file(content, _passphrase(file, passphrase_file) if is_sealed(content) else None)
    except JoinFileError as error:
        raise SettingsError(f"{file}: {error}") from None


def _passphrase(file: Path, passphrase_file: Path | None) -> str | None:
    if passphrase_file is not None:
        content = read_private(passphrase_file)
        lines = (content or b"").decode("utf-8", "replace").splitlines()
        if len(lines) != 1 or not lines[0].strip():
            said = "is not there" if content is None else "does not hold one line"
            raise SettingsError(
                f"--passphrase-file {passphrase_file} {said}: write the passphrase into it, and nothing else"
            )
        return lines[0].strip()
    if not sys.stdin.isatty():
        raise SettingsError(f"{file} is sealed: give --passphrase-file, for there is no terminal to ask at")
    return getpass.getpass(f"passphrase of {file}: ")


def _place(join: JoinFile, wishes: Wishes) -> tuple[JoinedFolder, bool]:
    """The device's folder, and whether a systemd unit watches over it."""
    wants_unit = wishes.systemd.is_there and not (wishes.is_foreground or wishes.is_background)
    path = wishes.state or (STATE / join.device if wants_unit else Path(join.device))
    folder = JoinedFolder(path=path.absolute())
    if wants_unit and (why := hindrance(folder)):
        print(f"no systemd unit: {why}. It runs in the foreground now", file=sys.stderr)
        return JoinedFolder(path=(wishes.state or Path(join.device)).absolute()), False
    return folder, wants_unit


def _told_of_running(folder: JoinedFolder) -> int:
    found = look(load_agent_settings(folder.config)) if folder.config.exists() else None
    print(f"the agent in {folder.path} runs already{'' if found is None else f'; {printable(found.words)}'}")
    return 0


def _source(join: JoinFile, wishes: Wishes, by_unit: bool) -> dict[str, dict[str, Any]] | None:
    if wishes.source is None:
        return None
    if by_unit and wishes.source == "-":
        raise SettingsError(
            "--source -: a systemd unit has no standard input; give a pipe or a port, or --foreground"
        )
    tables = source_tables(
        wishes.source,
        join,
        answers=_answers(wishes.answers),
        machine=wishes.machine,
        speed=wishes.speed,
        ca_file="ca.pem",
    )
    table = tables["source"]
    if table["kind"] == "replay" and wishes.speed is None and table.get("speed", 1.0) > 1:
        print(
            f"{table['path']} is played at {table['speed']:g} times its pace, so that its normal is learnt soon (--speed 1: as it was)"
        )
    return tables


def _answers(texts: Sequence[str]) -> Mapping[str, str]:
    pairs = [text.partition("=") for text in texts]
    if wrong := next(
        (text for text, (key, sign, _) in zip(texts, pairs, strict=True) if not key or not sign), None
    ):
        raise SettingsError(f"--answer {wrong[:80]!r} is not KEY=VALUE")
    return {key: value for key, _, value in pairs}


def _bring_recording(table: dict[str, Any], folder: JoinedFolder) -> None:
    """A unit does not see the homes where recordings lie: it gets a copy."""
    if table["kind"] != "replay":
        return
    copied = folder.path / f"recording{Path(table['path']).suffix}"
    try:
        if Path(table["path"]) != copied:
            shutil.copyfile(table["path"], copied)
    except OSError as error:
        raise SettingsError(f"cannot copy {table['path']} to {copied}: {error.strerror or error}") from None
    table["path"] = str(copied)


def _check_source(settings: Settings, join: JoinFile) -> None:
    """Open it once: what it says now, and whether it gives what the family expects."""
    if getattr(settings.source, "input", None) == "-":  # what is read here, the agent would miss
        return
    source = open_source(settings.source)
    try:
        for line in (*getattr(source, "summary", ()), *first_look(source)):
            print(printable(line))
        difference = describe_difference(join.features, source.spec) if join.features is not None else ""
    finally:
        source.close()
    if difference:
        raise SourceError(
            f"the source does not give what family {join.family} was made from: {difference}; nothing would be judged. Give a source of that"
            f" family's machines (change [source] in {settings.config_file}, or remove that file and join again)"
        )


def _enrol(settings: Settings, folder: JoinedFolder, join: JoinFile, file: Path) -> int:
    """Be let in, once; with an identity already, nothing is asked."""
    try:
        if not load_enrolled(settings.paths.enrolment).is_waiting:
            folder.claim.unlink(missing_ok=True)
            return 0
    except NotEnrolledError:
        pass
    folder.keep_claim(join)
    try:
        code = enrol_and_wait(settings, is_patient=True)
    except FleetDeniedError as error:
        ended = " Its week is over." if join.claim_ends_s < time.time() else ""
        raise FleetDeniedError(
            f"the fleet lets {join.device} in no more with {file}: {error.args[0].partition(' The claim token in ')[0]}.{ended} On the fleet's"
            f" machine: fedge device add {join.device}, and join with the new file",
            status=error.status,
        ) from None
    except FleetConflictError as error:
        raise FleetConflictError(
            f"{join.device} has joined already, with another key than the one in {folder.path}: go on in the folder that it joined in"
            " (--state DIR); a device that lost its key needs another name: fedge device add NAME",
            status=error.status,
        ) from None
    if code == 0:
        folder.claim.unlink(missing_ok=True)
    return code


def _start(settings: Settings, folder: JoinedFolder, join: JoinFile, wishes: Wishes, *, by_unit: bool) -> int:
    if by_unit:
        name = wishes.systemd.install(folder, join.device)
        print(f"{name} is enabled and started: systemctl status {name}, journalctl -u {name}")
        return _watch(settings, f"systemctl stop {name}")
    command = [sys.executable, "-m", "edge_agent.joining.attendant", str(folder.path)]
    if not wishes.is_background:
        sys.stdout.flush()
        # Typer and rich go; what stays is small, and has this process's id.
        os.execv(sys.executable, command)  # noqa: S606 - no shell, our own program
    with folder.log.open("ab") as log:
        child = subprocess.Popen(
            [*command, "--quiet"], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    return _watch(settings, f"kill {child.pid}", child)


def _watch(settings: Settings, stop: str, child: subprocess.Popen[bytes] | None = None) -> int:
    """Say how it is until it watches, at most a minute; then leave it to itself."""
    until_s, said, said_s = time.monotonic() + _PATIENCE_S, "", 0.0
    while (now_s := time.monotonic()) < until_s:
        if child is not None and (code := child.poll()) is not None:
            log = settings.config_file.parent / "agent.log"
            print(printable(f"{last_word(log)} (all of it: {log})"), file=sys.stderr)
            return code or 2
        found = look(settings)
        if found is not None and (found.phase != said or now_s - said_s > SAY_EVERY_S):
            print(printable(found.words), flush=True)
            said, said_s = found.phase, now_s
        if found is not None and found.is_watching:
            break
        time.sleep(0.25)
    print(
        f"it runs in the background: fedge-agent status --config {settings.config_file}; to stop it: {stop}"
    )
    return 0
