"""Obeys the fleet's retained word: settings from now on, and each command once.

::

    Commands ─► the next word? (`hearing`) ─► settings in force
                    └─► each outstanding command, by number
                          not above the last ─► its result again, or "stale"
                          else ─► allowed? known? not too often? ─► journal ─► begin ─► journal ─► result ─► outbox

At most once: the number is written before the command is begun. What a kill cuts off is begun once more where that does
no harm (`Action.is_repeatable`), and is `INTERRUPTED` otherwise. At least once: a result is remembered until it is in
the outbox, and told again to a fleet that still lists the command.

The word is the fleet's by its seal. Against a fleet that was taken over it can do what its actions and the bounds of the settings
allow, and no more than so often; its counter may not leap, because a word from the end of all numbers would be the last one.
Nothing here raises: whatever an action fails with becomes its result.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from msgspec.structs import replace

from edge_agent.allowance import Allowance
from edge_agent.remote.fleet_settings import SettingsInForce
from edge_agent.remote.hearing import Hearing
from edge_agent.remote.journal import KEPT_RESULTS, Begun, CommandFile, CommandJournal
from edge_agent.settings import Settings
from models.drift.monitor import DriftVerdict
from protocol.messages.commands import Command, CommandResult, Commands, SettingInForce, Value
from protocol.messages.kinds import CommandStatus, RefusalCode

__all__ = ["Action", "Executor", "Outcome", "refuse"]

log: Final = logging.getLogger(__name__)

_SAVE_AGAIN_S: Final = 5.0
_TELL_AGAIN_S: Final = 600.0
"""A fleet that still lists a command after so long has not got its result."""
_TRY_AGAIN_S: Final = 3600.0
"""Settings are looked at again: what the device has learnt since may carry one that could not be met, or carry one no more."""
_MOST_TRIES: Final = 2


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How far a command is, or with a `code` why it is not begun.

    `report` is base64 of what it fetched, `recovered` the end of a drift that it brought about.
    """

    status: CommandStatus
    reason: str = ""
    code: RefusalCode | None = None
    report: str = ""
    recovered: DriftVerdict | None = None


def refuse(code: RefusalCode, reason: str) -> Outcome:
    """What an action answers that does not begin."""
    return Outcome(status=CommandStatus.REFUSED, code=code, reason=reason)


class Action(Protocol):
    """What a command does. Both calls return at once, or nearly: windows wait meanwhile."""

    is_repeatable: bool
    """May it be begun again where a kill cut it off?"""
    allowance: Allowance
    """How often it may be begun."""

    def begin(self, command: Command) -> Outcome:
        """Do it, or begin to, or refuse."""

    def look(self, command: Command) -> Outcome:
        """How far one is that is IN_PROGRESS; also in the next process."""


class Executor:
    """The device's obedience. One thread, the loop's.

    Args:
        file: what survives a kill.
        actions: by name; what is not among them is unknown here.
        allowed: the actions that agent.toml lets a fleet ask for.
        settings: which are in force.
        apply: makes settings effective, see `SettingsInForce.obey`.
        monotonic: seconds.
        known_wall: Unix seconds where the date is known, else None: then nothing expires here.
    """

    def __init__(
        self,
        file: CommandFile,
        *,
        actions: Mapping[str, Action],
        allowed: Iterable[str],
        settings: SettingsInForce,
        apply: Callable[[Settings], Mapping[str, str]],
        monotonic: Callable[[], float],
        known_wall: Callable[[], float | None],
    ) -> None:
        self._file, self._actions, self._allowed = file, actions, frozenset(allowed)
        self._settings, self._apply = settings, apply
        self._monotonic, self._known_wall = monotonic, known_wall
        self._journal = file.journal
        self._cut_off = deque(begun for begun in self._journal.under_way if begun.result is None)
        self._hearing = Hearing(monotonic=monotonic)
        self._refusals = Allowance(burst=64, every_s=10.0, monotonic=monotonic)
        self._waiting: deque[Command] = deque()
        self._posted: list[CommandResult] = []
        # What the process before knew may not have reached the outbox.
        self._to_tell = [begun.result for begun in self._journal.under_way if begun.result is not None]
        self._told_s: dict[int, float] = {}
        self._save_at_s, self._try_at_s = float("-inf"), monotonic() + _TRY_AGAIN_S
        self._recovered: list[DriftVerdict] = []

    @property
    def counter(self) -> int:
        """Of the newest message obeyed; 0: none."""
        return self._journal.counter

    @property
    def effective(self) -> Settings:
        """agent.toml with what the fleet has a say in."""
        return self._settings.effective

    @property
    def settings(self) -> tuple[SettingInForce, ...]:
        """What is in force and why."""
        return self._settings.told

    @property
    def noteworthy_settings(self) -> tuple[SettingInForce, ...]:
        """What of that is not simply the default."""
        return self._settings.noteworthy

    @property
    def lines(self) -> tuple[str, ...]:
        """What is under way, and how the last commands ended: a sentence each, for people."""
        going = [b.result for b in self._journal.under_way if b.result is not None]
        return tuple(
            f"{r.number} {r.action}: {r.status.value}{f' ({r.reason})' if r.reason else ''}"
            for r in (*self._journal.results[-3:], *going)
        )

    def hear(self, messages: Sequence[Commands]) -> list[CommandResult]:
        """Take what arrived; the newest word counts, whatever order they came in. Returns what the fleet is told at once."""
        return self._hearing.hear(messages, self._journal.counter)

    def turn(self) -> list[CommandResult]:
        """Go on: at most one command is begun; returns what is to be told. `told` confirms it."""
        now_s = self._monotonic()
        if (word := self._hearing.next_word()) is not None:
            self._take_up(word)
        elif self._journal.settings and now_s >= self._try_at_s:
            self._set(self._journal.settings, self._journal.counter)
        self._look()
        if now_s >= self._save_at_s:
            if self._cut_off:
                self._go_on(self._cut_off.popleft())
            elif self._waiting:
                self._begin_next()
        posts, self._to_tell = self._to_tell, []
        self._posted += posts
        return posts

    def take_recovered(self) -> list[DriftVerdict]:
        """Drifts that commands have ended since the last call."""
        taken, self._recovered = self._recovered, []
        return taken

    def told(self) -> None:
        """Everything that `turn` gave is in the outbox."""
        posted, self._posted = self._posted, []
        if not posted:
            return
        now_s = self._monotonic()
        self._told_s |= {result.number: now_s for result in posted}
        over = {result.number: replace(result, report="") for result in posted if result.status.is_final}
        known = {result.number for result in self._journal.results}
        if fresh := [result for number, result in sorted(over.items()) if number not in known]:
            self._write(
                under_way=tuple(b for b in self._journal.under_way if b.command.number not in over),
                results=(*self._journal.results, *fresh)[-KEPT_RESULTS:],
            )
        while len(self._told_s) > 4 * KEPT_RESULTS:
            del self._told_s[next(iter(self._told_s))]

    def _take_up(self, message: Commands) -> None:
        journal = self._journal
        if message.counter > journal.counter:
            self._set(message.settings, message.counter)
        self._waiting.clear()
        by_number = {command.number: command for command in message.outstanding}
        for _, command in sorted(by_number.items()):
            if command.number > message.counter:
                log.warning("command_refused number=%d: above its message's counter", command.number)
            elif command.number > journal.number:
                self._waiting.append(command)
            elif all(begun.command.number != command.number for begun in journal.under_way):
                self._tell_again(command)

    def _set(self, wishes: Mapping[str, Value], counter: int) -> None:
        before = self._settings.told
        self._try_at_s = self._monotonic() + _TRY_AGAIN_S
        unmet = self._settings.obey(wishes, self._apply)
        if self._settings.told != before:
            log.info(
                "settings_in_force %s",
                " ".join(
                    f"{one.name}={one.value if one.value is None else f'{one.value:g}'} ({one.refused or one.source.value})"
                    for one in self._settings.noteworthy
                )
                or "all as agent.toml says",
            )
        journal = self._journal
        if (journal.settings, journal.counter, journal.unmet) != (wishes, counter, unmet):
            self._write(settings=dict(wishes), counter=counter, unmet=dict(unmet))

    def _tell_again(self, command: Command) -> None:
        number = command.number
        if self._monotonic() - self._told_s.get(number, float("-inf")) < _TELL_AGAIN_S:
            return
        known = next((result for result in self._journal.results if result.number == number), None)
        if known is not None:
            self._to_tell.append(known)
            return
        reason = f"its number is not above {self._journal.number}, which this device has obeyed; ask again"
        self._refuse(command, refuse(RefusalCode.STALE, reason))

    def _begin_next(self) -> None:
        """Begin the next that may be; those before it that may not are refused together, with one write."""
        refused: list[tuple[Command, Outcome]] = []
        waiting = list(self._waiting)
        while waiting and (refusal := self._refusal(waiting[0])) is not None:
            refused.append((waiting.pop(0), refusal))
        if refused:
            if not self._write(number=refused[-1][0].number):
                return
            self._waiting = deque(waiting)
            for command, refusal in refused:
                self._refuse(command, refusal)
            return
        command = self._waiting[0]
        begun = Begun(command=command)
        # Written before anything is done: a kill from here on does not do it twice.
        if self._write(number=command.number, under_way=(*self._journal.under_way, begun)):
            self._waiting.popleft()
            self._begin(begun)

    def _go_on(self, begun: Begun) -> None:
        """A kill came between the first word about a command and the second."""
        action = self._actions.get(begun.command.action)
        if action is None or not action.is_repeatable or begun.tries >= _MOST_TRIES:
            reason = (
                "the agent was stopped while it began this, and does not begin it twice; look, and ask again"
            )
            self._note(begun, Outcome(status=CommandStatus.INTERRUPTED, reason=reason))
            return
        again = replace(begun, tries=begun.tries + 1)
        if self._write(under_way=self._replaced(begun, again)):
            self._begin(again)
        else:
            self._cut_off.append(begun)

    def _begin(self, begun: Begun) -> None:
        command = begun.command
        action = self._actions[command.action]
        log.info("command_begun number=%d action=%s", command.number, command.action)
        try:
            outcome = action.begin(command)
        except Exception as error:  # noqa: BLE001 - whatever it was, windows are watched and the fleet is told
            outcome = _failed(error)
        if outcome.code is None:
            action.allowance.take()
            self._note(begun, outcome)
            return
        self._write(under_way=tuple(b for b in self._journal.under_way if b != begun))
        self._refuse(command, outcome)

    def _look(self) -> None:
        for begun in self._journal.under_way:
            result = begun.result
            if result is None or result.status.is_final:
                continue
            action = self._actions.get(begun.command.action)
            try:
                outcome = (
                    action.look(begun.command)
                    if action is not None
                    else Outcome(
                        status=CommandStatus.INTERRUPTED, reason="this agent does not know it any more"
                    )
                )
            except Exception as error:  # noqa: BLE001 - as in `_begin`
                outcome = _failed(error)
            if outcome.status.is_final:
                self._note(begun, outcome)

    def _note(self, begun: Begun, outcome: Outcome) -> None:
        result = CommandResult(
            number=begun.command.number,
            action=begun.command.action,
            status=outcome.status,
            reason=outcome.reason[:2000],
        )
        _log_result(result)
        if outcome.recovered is not None:
            self._recovered.append(outcome.recovered)
        # A report is not kept: where it is lost, the command fetches another one.
        if not outcome.report:
            self._write(under_way=self._replaced(begun, replace(begun, result=result)))
        self._to_tell.append(replace(result, report=outcome.report))

    def _refusal(self, command: Command) -> Outcome | None:
        name = command.action
        action = self._actions.get(name)
        if action is None:
            known = ", ".join(sorted(self._actions))
            return refuse(RefusalCode.UNKNOWN, f"this agent knows no command {name!r}; it knows {known}")
        if name not in self._allowed:
            own = "this device's own agent.toml does not allow it from afar ([remote] commands)"
            return refuse(RefusalCode.FORBIDDEN, own)
        if any(begun.command.action == name for begun in self._journal.under_way):
            return refuse(RefusalCode.UNDER_WAY, f"another {name} has not ended")
        now_s = self._known_wall()
        if now_s is not None and now_s >= command.expires_at:
            return Outcome(status=CommandStatus.EXPIRED, reason="the device heard of it after its time")
        if action.allowance.wait_s > 0:
            often = f"at most {action.allowance.text}; ask again in {action.allowance.wait_s:.0f} s"
            return refuse(RefusalCode.TOO_OFTEN, often)
        return None

    def _refuse(self, command: Command, refusal: Outcome) -> None:
        result = CommandResult(
            number=command.number,
            action=command.action,
            status=refusal.status,
            code=refusal.code or "",
            reason=refusal.reason[:2000],
        )
        # Who sends commands without end gets no answers without end: they would push others out of the outbox.
        if self._refusals.take():
            _log_result(result)
            self._to_tell.append(result)

    def _replaced(self, before: Begun, after: Begun) -> tuple[Begun, ...]:
        number = before.command.number
        return tuple(after if b.command.number == number else b for b in self._journal.under_way)

    def _write(self, **changes: object) -> bool:
        """Change the journal durably; where the disk refuses, in memory for what was done already, and False."""
        renewed: CommandJournal = replace(self._journal, **changes)
        is_written = self._file.save(renewed)
        if is_written or "number" not in changes:
            self._journal = renewed
        if not is_written:
            self._save_at_s = self._monotonic() + _SAVE_AGAIN_S
        return is_written


def _log_result(result: CommandResult) -> None:
    log.info(
        "command_%s number=%d action=%s reason=%s",
        result.status.value.lower(),
        result.number,
        result.action,
        result.reason,
    )


def _failed(error: Exception) -> Outcome:
    log.error("command_raised error=%r", error)
    return Outcome(status=CommandStatus.FAILED, reason=f"{type(error).__name__}: {error}"[:500])
