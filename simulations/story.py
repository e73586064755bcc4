"""The story of a world, chapter by chapter: what is done, and what must be seen before it goes on.

::

    a  enrol, version 1     b  watch      c  the load changes     d  learn together
    e  version 2 spreads    f  a fault    g  a bad version 3 is undone

Each chapter acts through the doors a person would use (HTTP APIs, the machine itself) and then waits until the world
shows the effect; a chapter that waits in vain ends the story with what was missing. Nothing is faked or skipped.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
import tomli_w

from protocol.names import release_id
from simulations.bad_release import harmful_release
from simulations.errors import StoryError
from simulations.figures import compute_figures
from simulations.observer import RENEW_LINK_S, Observer
from simulations.orders import first_release_spec, rollout_body, rollout_groups
from simulations.patience import Patience
from simulations.record import Chapter, ChapterState, DeviceSeen, FaultInjected, Record, RolloutSeen
from simulations.screen import Screen
from simulations.world import World

__all__ = ["CHAPTERS", "Story", "new_chapters"]

CHAPTERS: Final = (
    ("a", "Devices enrol and get version 1, trained on a few reference machines only"),
    ("b", "They watch, and say almost nothing"),
    ("c", "The load changes on most machines: drift and false alarms rise"),
    ("d", "They learn together, and nobody shares a sample"),
    ("e", "Version 2 spreads: canary, quarter, all"),
    ("f", "A real fault in one machine"),
    ("g", "A bad version 3 is stopped at the canary and undone"),
)
LOOK_EVERY_S: Final = 0.5
TICK_S: Final = 0.1
INJECTIONS: Final = 4
CALM_WINDOWS: Final = 40
CALL_NORMAL_EVERY_S: Final = 2.0
"""How often the operator who changed the load tells the fleet that what devices set aside is normal."""


def new_chapters() -> list[Chapter]:
    """The chapters, none begun."""
    return [Chapter(letter=letter, title=title) for letter, title in CHAPTERS]


@dataclass(kw_only=True)
class Story:
    """Plays a world's story.

    Attributes:
        world: what is acted upon.
        record: what was seen so far; the story writes its chapters and faults, the observer everything else.
        observer: fills the record.
        screen: shows it.
        on_tick: called about ten times a second; tests kill processes with it.
    """

    world: World
    record: Record
    observer: Observer
    screen: Screen
    on_tick: Callable[[Record], None] = lambda _: None
    _looked_at: float = 0.0
    _calls_normal: bool = False
    _called_at: float = 0.0
    _linked_at: float = float("inf")

    def play(self) -> None:
        """Play every chapter in order.

        Raises:
            StoryError: the world did not show what a chapter waits for.
            ProcessFailedError: a process did not come up or kept dying.
        """
        for chapter, act in zip(
            self.record.chapters,
            (self._enrol, self._watch, self._change, self._learn, self._spread, self._break, self._undo),
            strict=True,
        ):
            chapter.began_s = self.record.now_s = self.observer.clock()
            chapter.state = ChapterState.NOW
            act(chapter)
            self._look()
            chapter.ended_s = self.record.now_s
            chapter.state = ChapterState.DONE
        self._pause(self.world.scenario.health_every_s)  # the last health messages arrive

    def _enrol(self, chapter: Chapter) -> None:
        """Start every program, make version 1 of machines that are not in the fleet, and give it to every device.

        Over when each device has learned its own machine's normal.
        """
        world = self.world
        self._say(chapter, "making certificates, keys and tokens")
        world.prepare()
        world.issue_tokens()
        self._say(chapter, f"starting the broker ({world.broker_name}) and the fleet")
        world.start_services(fleet_is_up=self.observer.fleet.is_up)
        self._renew_link()
        self._say(chapter, f"training version 1 on {world.scenario.reference_machines} reference machines")
        bundle = self._make_first_release()
        world.publish_release(bundle.read_bytes())
        self._say(chapter, "starting the aggregator with its Flower server")
        world.start_aggregator(aggregator_is_up=self.observer.aggregator.is_up)
        self._say(chapter, "enrolling the devices")
        world.start_agents(self._is_online, lambda note: self._say(chapter, note))
        self._start_rollout(
            1, [{"name": "all", "percentage": 100, "soak_s": 0}], {"success": {"threshold_pct": 95}}
        )
        self._wait(lambda: self._all_run(1), "version 1 on every device")
        self._say(chapter, "each device learns its own machine's normal")
        self._wait(lambda: all(d.state == "watching" for d in self._devices()), "the end of commissioning")
        chapter.note = f"{len(self._devices())} devices on three kinds of hardware run version 1"

    def _watch(self, chapter: Chapter) -> None:
        """Nothing happens, and next to nothing is sent."""
        self._pause(self.world.scenario.watch_s)
        seen = [device.health for device in self._devices()]
        raw, sent = sum(d.raw_bytes for d in seen), sum(d.telemetry_bytes for d in seen)
        saved = 100 * (1 - sent / raw) if raw else 0.0
        chapter.note = f"{sum(d.windows for d in seen):,} windows scored; {sent / 1e3:.0f} kB sent instead of {raw / 1e6:.0f} MB: {saved:.2f} % saved"

    def _change(self, chapter: Chapter) -> None:
        """Most machines run under another load: healthy, and yet nothing that version 1 has seen.

        Devices set aside what alarms and what drifts. The operator who changed the load knows better and says so, until
        version 2 is everywhere: only a person can.
        """
        scenario = self.world.scenario
        changed = self._changed_machines()
        for index, device in enumerate(self.world.devices[:changed]):
            self.world.machines.change(self.world.control_file(device), index)
        wanted = scenario.family.trigger.drift_share or 0.0
        self._calls_normal = True
        self._say(
            chapter,
            f"{changed} machines run differently now, which is normal; waiting until {wanted:.0%} of the fleet have drifted",
        )
        # what the aggregator counts; its run may have begun between two looks
        self._wait(
            lambda: self._drifted() >= wanted or bool(self.record.trainings),
            f"drift on {wanted:.0%} of the fleet",
            lambda: f"{self._drifted():.0%} have drifted and are not back",
        )
        chapter.note = f"{self._drifted():.0%} of the devices have drifted"

    def _learn(self, chapter: Chapter) -> None:
        """Nobody asks for it: the aggregator sees the drift, invites, trains, checks and publishes.

        Raises:
            StoryError: the run ended in another way; quotes the aggregator's reason.
        """
        self._say(chapter, "the aggregator invites the fleet by itself")
        self._wait(
            lambda: bool(self.record.trainings),
            "a training run started by drift",
            lambda: f"{self._drifted():.0%} of the fleet have drifted and are not back",
        )
        self._say(chapter, "learners join and train on what their own machines showed them")
        self._wait(
            lambda: all(t.ended_s is not None for t in self.record.trainings.values()),
            "the end of the training run",
        )
        run = list(self.record.trainings.values())[-1]
        if run.state != "COMPLETED":
            raise StoryError(
                f"training run {run.run} ended as {run.state}: {run.reason or 'no reason given'}"
            )
        chapter.note = (
            f"{len(run.rounds)} rounds; {run.release} passed the gate, was quantized to int8 and signed"
        )

    def _spread(self, chapter: Chapter) -> None:
        """Version 2 goes from group to group by its health, then its false alarms are watched.

        Raises:
            StoryError: the fleet rolled it back.
        """
        self._say(chapter, "each group is watched before the next one follows")
        self._wait(lambda: self._rollout_of(2) is not None, "the rollout of version 2")
        self._wait(lambda: self._rollout_state(2) in {"COMPLETED", "ROLLED_BACK"}, "the rollout of version 2")
        if self._rollout_state(2) != "COMPLETED":
            rollout = self._rollout_of(2)
            raise StoryError(f"version 2 was rolled back: {rollout.reason if rollout else ''}")
        self._wait(lambda: self._all_run(2), "version 2 on every device")
        self._calls_normal = False
        for index, device in enumerate(self.world.devices):
            self.world.machines.settle(self.world.control_file(device), index)
        self._say(chapter, "version 2 is everywhere; watching false alarms")
        self._pause(self.world.scenario.settle_s)
        rates = compute_figures(self.record)
        chapter.note = f"windows over threshold: {rates.false_alarms_after_change.windows_over_share:.1%} before, {rates.false_alarms_after_learning.windows_over_share:.1%} with version 2"

    def _break(self, chapter: Chapter) -> None:
        """One machine breaks for real; over when the fleet has its alarm, and the machine is mended."""
        index, fault = self._inject_fault()
        self._say(chapter, f"{fault.device}: {fault.kind}")
        self._wait(lambda: fault.caught_s is not None, f"the alarm of {fault.device}")
        self._pause(self.world.scenario.aftermath_s)
        self._mend(index)
        fault.ended_s = self.observer.clock()
        caught = (fault.caught_s or 0.0) - fault.at_s
        chapter.note = (
            f"{fault.device}: {fault.kind}, caught after {caught:.1f} s, published {fault.published} time(s)"
        )

    def _inject_fault(self) -> tuple[int, FaultInjected]:
        """Break a machine that is calm: an alarm that is open already would hide whether the fault is seen."""
        calm_s = self.world.scenario.aftermath_s
        for _ in range(INJECTIONS):
            index = self._calmest_machine()
            device = self.world.devices[index]
            kind = self.world.machines.break_down(self.world.control_file(device), index)
            fault = FaultInjected(device=device, kind=kind, at_s=self.observer.clock())
            self.record.faults.append(fault)
            self._pause(calm_s / 4)
            if not any(
                a.device == device and fault.at_s - calm_s < a.at_s < fault.at_s for a in self.record.alarms
            ):
                return index, fault
            self.record.faults.remove(fault)
            self._mend(index)
            self._pause(calm_s)
        raise StoryError("no machine stayed calm long enough to tell a fault from a false alarm")

    def _calmest_machine(self) -> int:
        """The middle one of the changed machines, or the nearest to it with no window over threshold lately."""
        middle = len(self.world.devices) // 2

        def unrest(index: int) -> tuple[int, int]:
            trace = self.record.traces.get(self.world.devices[index])
            return (int(trace.over[-CALM_WINDOWS:].sum()) if trace else CALM_WINDOWS, abs(index - middle))

        return min(range(self._changed_machines()), key=unrest)

    def _mend(self, index: int) -> None:
        control = self.world.control_file(self.world.devices[index])
        if self.world.machines.feature_spec.kind == "passthrough":  # a recording goes on
            self.world.machines.settle(control, index)
        else:
            self.world.machines.change(control, index)

    def _undo(self, chapter: Chapter) -> None:
        """A harmful version with a valid signature is rolled out; the fleet has to find out by itself.

        Over when every device runs version 2 again.
        """
        family = self.world.scenario.family.name
        good = self.observer.publisher.download(f"/v1/releases/{family}/2/bundle")
        bad = harmful_release(good, version=3, signing_key=self.world.plant.release_key, now=time.time())
        self.world.publish_release(bad)
        self._say(chapter, "version 3 has a valid signature and a harmful threshold")
        self._start_rollout(3, rollout_groups(self.world.scenario))
        self._wait(lambda: self._rollout_state(3) == "ROLLED_BACK", "the rollback of version 3")
        self._wait(lambda: self._all_run(2), "version 2 back on every device")
        rollout = self._rollout_of(3)
        if rollout is None:
            raise StoryError("the rollout of version 3 is gone from the fleet's records")
        rollout.recovered_s = self.record.now_s
        touched = sum(1 for trace in self.record.traces.values() if (trace.release == 3).any())
        chapter.note = f"it reached {touched} device(s); the fleet is back on version 2 after {rollout.recovered_s - rollout.began_s:.1f} s, without anyone's help"

    def _make_first_release(self) -> Path:
        """Train version 1 as a person would, with ``fedge-aggregator initial-release``; returns the signed bundle."""
        world, scenario = self.world, self.world.scenario
        recordings, shortest = world.write_reference_recordings()
        spec = world.directory / "family.toml"
        spec.write_bytes(
            tomli_w.dumps(first_release_spec(scenario, world.machines.feature_spec, shortest)).encode()
        )
        bundle = world.directory / "version-1.fedge"
        world.supervisor.run(
            "initial-release", "aggregator", "initial-release",
            "--features", str(recordings), "--spec", str(spec),
            "--signing-key", str(world.plant.release_key), "--out", str(bundle),
        )  # fmt: skip
        return bundle

    def _start_rollout(
        self, version: int, groups: list[dict[str, object]], other: dict[str, object] | None = None
    ) -> None:
        release = release_id(self.world.scenario.family.name, version)
        body = (
            rollout_body(self.world.scenario, groups) | {"name": release, "release": release} | (other or {})
        )
        made = self.observer.fleet.post("/v1/rollouts", body=body)
        self.observer.fleet.post(f"/v1/rollouts/{made['id']}:start")

    def _devices(self) -> list[DeviceSeen]:
        return list(self.record.devices.values())

    def _is_online(self, device: str) -> bool:
        self._look()
        seen = self.record.devices.get(device)
        return seen is not None and seen.online

    def _all_run(self, version: int) -> bool:
        wanted = release_id(self.world.scenario.family.name, version)
        seen = self._devices()
        return len(seen) == len(self.world.devices) and all(d.release == wanted for d in seen)

    def _drifted(self) -> float:
        return self.record.drift_share[-1][1] if self.record.drift_share else 0.0

    def _rollout_of(self, version: int) -> RolloutSeen | None:
        wanted = release_id(self.world.scenario.family.name, version)
        return next((r for r in self.record.rollouts.values() if r.release == wanted), None)

    def _rollout_state(self, version: int) -> str:
        rollout = self._rollout_of(version)
        return rollout.state if rollout else ""

    def _changed_machines(self) -> int:
        return round(self.world.scenario.machines.changed_share * len(self.world.devices))

    def _say(self, chapter: Chapter, note: str) -> None:
        chapter.note = note
        self.record.now_s = self.observer.clock()
        self.screen.update(self.record)

    def _renew_link(self) -> None:
        """A link into the dashboard that can still be used; a fleet that is away has its old one for a while."""
        self._linked_at = self.observer.clock()
        self.record.sign_in_link = self.observer.sign_in_link()

    def _look(self) -> None:
        self.observer.look()
        if self.observer.clock() - self._linked_at > RENEW_LINK_S:
            self._renew_link()
        self._looked_at = self.observer.clock()
        if self._calls_normal and self._looked_at - self._called_at >= CALL_NORMAL_EVERY_S:
            self._called_at = self._looked_at
            # Only where there is something to accept: each device answers, and what it says is counted.
            family = self.world.scenario.family.name
            query = {"query": f"family=={family} and (set_aside_windows=gt=0 or drifted==true)"}
            # Once only: the fleet may be dead this moment, and it is this loop that starts it again.
            with suppress(httpx.TransportError, OSError):
                self.observer.fleet.post("/v1/devices:accept-normal", body=query, tries=1)
        self.screen.update(self.record)

    def _tick(self) -> None:
        for name in self.world.supervisor.tick():
            self.record.deaths.append((self.observer.clock(), name))
        if self.observer.clock() - self._looked_at >= LOOK_EVERY_S:
            self._look()
        self.on_tick(self.record)
        time.sleep(TICK_S)

    def _pause(self, seconds: float) -> None:
        until = self.observer.clock() + seconds
        while self.observer.clock() < until:
            self._tick()

    def _wait(self, seen: Callable[[], bool], what: str, stand: Callable[[], str] = str) -> None:
        """Until `seen`, for as long as the world comes on: patience begins anew with each milestone that was not reached before.

        Raises:
            StoryError: nothing new came for too long; says for `what` it waited, and how things `stand`.
        """
        limit_s, began_s = self.world.scenario.patience_s, self.observer.clock()
        patience, reached = Patience(limit_s), self.record.milestones()
        while not seen():
            self._tick()
            if (
                not (now := self.record.milestones()) <= reached
            ):  # what comes and goes and comes is nothing new
                patience, reached = Patience(limit_s), reached | now
            if patience.is_used_up():
                how = f" ({told})" if (told := stand()) else ""
                raise StoryError(
                    f"waited {self.observer.clock() - began_s:.0f} s for {what}, in vain{how};"
                    f" the logs are in {self.world.directory / 'logs'}"
                )
