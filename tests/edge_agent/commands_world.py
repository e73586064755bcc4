"""An executor of the fleet's commands with actions that do what a test tells them, restarted as often as it likes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edge_agent.allowance import Allowance
from edge_agent.remote.executor import Executor, Outcome
from edge_agent.remote.fleet_settings import SettingsInForce
from edge_agent.remote.journal import CommandFile
from edge_agent.settings import Settings, load_agent_settings
from protocol.messages.commands import Command, CommandResult, Commands, Value
from protocol.messages.kinds import CommandStatus, SettingSource

LATER_S = 4e9
BUDGET = "detection.budget.alarms_per_1000_windows"
EVENT = "detection.budget.shortest_event_windows"
INTERVAL = "health.every_s"


class Deed:
    """An action that counts; it may die in the middle, refuse, fail, or take its time."""

    def __init__(self, clock: Callable[[], float], *, is_repeatable: bool = False, burst: int = 9) -> None:
        self.is_repeatable, self.done, self.error = is_repeatable, 0, ""
        self.note: Callable[[str], None] = lambda _: None
        self.allowance = Allowance(burst=burst, every_s=60.0, monotonic=clock)
        self.outcome, self.later = Outcome(status=CommandStatus.DONE), CommandStatus.IN_PROGRESS

    def begin(self, command: Command) -> Outcome:
        self.done += 1
        self.note(f"deed {command.number}")
        if self.error == "power cut":
            raise KeyboardInterrupt
        if self.error:
            raise ValueError(self.error)
        return self.outcome

    def look(self, _command: Command) -> Outcome:
        return Outcome(status=self.later, reason="looked at")


class Device:
    """An executor on one folder, restarted as often as a test likes."""

    def __init__(self, folder: Path) -> None:
        self.path, self.now_s, self.wall_s = folder / "commands.json", 0.0, 1000.0
        (folder / "agent.toml").write_text(
            'state_dir = "."\ntenant = "t"\nfamily = "f"\nhardware = "h"\n[trust]\nroot = "r"\n[source]\nkind = "simulated"\n'
        )
        self.settings = load_agent_settings(folder / "agent.toml")
        self.deeds = {"recommission": Deed(self.clock), "diagnose": Deed(self.clock, is_repeatable=True)}
        self.allowed = ("recommission", "diagnose")
        self.applied: list[Settings] = []
        self.deaf: dict[str, str] = {}
        self.told: list[CommandResult] = []
        self.note: Callable[[str], None] = lambda _: None
        self.start()

    def clock(self) -> float:
        return self.now_s

    def start(self) -> None:
        file = CommandFile(self.path)
        self.executor = Executor(
            file,
            actions=self.deeds,
            allowed=self.allowed,
            settings=SettingsInForce(self.settings, file.journal.settings, file.journal.unmet),
            apply=self.apply,
            monotonic=self.clock,
            known_wall=lambda: self.wall_s,
        )

    def apply(self, settings: Settings) -> dict[str, str]:
        self.applied.append(settings)
        return self.deaf if settings.detection.budget.alarms_per_1000_windows < 0.01 else {}

    def hear(self, *commands: Command, counter: int = 0, **settings: Value) -> None:
        counter = counter or max((command.number for command in commands), default=1)
        named = {name.replace("__", "."): value for name, value in settings.items()}
        self.told += self.executor.hear([Commands(counter=counter, settings=named, outstanding=commands)])

    def turn(self, turns: int = 4, *, is_told: bool = True) -> list[CommandResult]:
        """Some turns of the loop; `is_told`: what they give reaches the outbox."""
        results = []
        for _ in range(turns):
            given = self.executor.turn()
            results += given
            for result in given:
                self.note(f"told {result.number} {result.status.value}")
            if is_told:
                self.executor.told()
            self.now_s += 0.25
        return results

    def in_force(self, name: str) -> tuple[float | None, SettingSource, bool]:
        (one,) = [one for one in self.executor.settings if one.name == name]
        return one.value, one.source, bool(one.refused)


def order(
    number: int, action: str = "recommission", expires_at: float = LATER_S, **arguments: Value
) -> Command:
    return Command(number=number, action=action, expires_at=expires_at, arguments=arguments)


def said(results: list[CommandResult]) -> list[tuple[int, str, str]]:
    return [(result.number, result.status.value, result.code) for result in results]
