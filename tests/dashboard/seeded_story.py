"""What happened to the seeded fleet in its last 22 hours: everything that a page of the dashboard can show, once at least.

A good rollout, one that its gates undid, one under way with looks, one that a person holds, one that waits for approval, one that
was canceled, one whose devices do not come back; devices that are silent, blind, drifted, shut out, waiting, doubled, too loud; alarms
with windows, a storm, verdicts whose precision falls; dead letters, commands. Every text that a device may choose is hostile once.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable
from typing import Any, Final

import numpy as np
from fleet_world import Machine, anomaly, closed, health, of_a_newer_agent
from seeded_fleet import BOB, SeededFleet
from seeded_releases import provenance

from fleet import admission
from fleet.device_commands import Order, give_commands
from fleet.device_settings import write_settings
from fleet.ingest.judging import Arrival
from fleet.rollouts.verbs import Verb
from protocol.messages.commands import CommandResult
from protocol.messages.kinds import (
    AgentState,
    CommandAction,
    CommandStatus,
    DeathReason,
    DriftState,
)
from protocol.messages.payloads import (
    Birth,
    Death,
    DetectorFinding,
    DriftReport,
    SensorShape,
)

HOUR: Final = 3600.0
LASTS_S: Final = 22 * HOUR
"""Less than the day for which health messages are kept, so that a service that prunes takes nothing away."""
LOOK_S, STEP_S, QUIET_S = 300.0, 900.0, 1800.0
OWNED: Final = "window.fedgeOwned=1"
"""What every hostile text would do if it became more than text."""
SCRIPT: Final = f"<script>{OWNED}</script>"
IMAGE: Final = f"<img src=x onerror={OWNED}>"
BREAKOUT: Final = f"\"'></title></svg></textarea><svg onload={OWNED}>"
ATTRIBUTE: Final = f'" onmouseover="{OWNED}" autofocus onfocus=\'{OWNED}\' {{{{7*7}}}} &lt;b&gt;'
LINK: Final = f"javascript:{OWNED}"

MOTORS: Final = tuple(f"motor-{number:02}" for number in range(1, 25))
PUMPS: Final = tuple(f"pump-{number:02}" for number in range(1, 17))
FANS: Final = tuple(f"fan-{number}" for number in range(1, 7))
PRESSES: Final = tuple(f"press-{number:02}" for number in range(1, 11))
LATHES: Final = tuple(f"lathe-{number}" for number in range(1, 7))
SILENT, BLIND, DRIFTED, REVOKED, LOUD = "press-07", "press-08", "lathe-3", "press-09", "press-10"
DOUBLED, HOSTILE, WAITING = "lathe-5", "press-01", "conveyor-1"
GATES: Final = {
    "metrics": ["latency_p99", "anomaly_rate", "memory", "sight", "restarts"],
    "baseline_s": 2 * HOUR,
    "hold_out": 0,
    "on_not_seen": "continue",
}
GROUPS: Final = [{"name": "canary", "count": 6, "soak_s": HOUR}, {"percentage": 100, "soak_s": HOUR}]


class Past:
    """Lets the devices of a fleet live, each with figures of its own, and releases do them good or harm."""

    def __init__(self, fleet: SeededFleet) -> None:
        self.fleet, self.rng = fleet, np.random.default_rng(16)
        self.harm: dict[str, float] = {}
        self.quiet = {SILENT, REVOKED, WAITING}
        self._own: dict[str, float] = {}
        self._began = fleet.now

    def arrive(self, names: Iterable[str], release: str, **birth: Any) -> None:
        """Devices say that they are here, and run `release`."""
        told: list[Arrival] = []
        for name in names:
            self._own[name] = float(np.exp(self.rng.normal(0, 0.3)))
            self.fleet.runs[name] = release
            said = {
                "agent_version": "1.4.2",
                "hardware": "rpi4",
                "family": release.split("/", maxsplit=1)[0],
            } | birth
            told.append(self.fleet.say(name, Birth(release=release, **said)))
        self.fleet.hear(told)

    def live(self, seconds: float, *, every_s: float = QUIET_S, only: Iterable[str] | None = None) -> None:
        """Time passes, rollouts move on; a health message of each device `every_s`, or of `only` these."""
        ends = self.fleet.now + seconds
        names = [name for name in (only or self._own) if name not in self.quiet]
        while self.fleet.now < ends:
            at = min(self.fleet.now + max(STEP_S, every_s), ends)
            times = np.arange(self.fleet.now + every_s, at + 0.5, every_s)
            self.fleet.hear([self._message(name, float(time)) for time in times for name in names])
            self.fleet.roll_up()
            self.fleet.advance(at - self.fleet.now)

    def say_alive(self) -> None:
        """A last word of every device, whatever came late before it."""
        self.fleet.hear(
            [self.message(name, self.fleet.now - 30) for name in self._own if name not in self.quiet]
        )

    def message(self, name: str, at: float, **said: Any) -> Arrival:
        """A health message of a device that says something of its own beside its figures."""
        figures = self._figures(name, at) | said
        return self.fleet.say(name, health(release=self.fleet.runs[name], **figures), at=at)

    def _message(self, name: str, at: float) -> Arrival:
        return self.message(name, at)

    def _figures(self, name: str, at: float) -> dict[str, Any]:
        own, harm = self._own[name], self.harm.get(self.fleet.runs[name], 1.0)
        day = np.sin((at - self._began) / 86400 * 2 * np.pi)
        over = self.rng.binomial(200, min(1.0, 0.01 * own))
        lived = at - self._began
        windows = int(lived * 2)
        mean = float(0.42 * own**0.3 + 0.06 * day + self.rng.normal(0, 0.02))
        return {
            "uptime_s": lived,
            "machine_time_s": lived,
            "windows": windows,
            "interval_s": STEP_S,
            "interval_windows": 200,
            "interval_judged": 200 - int(self.rng.integers(0, 3)),
            "unjudged_windows": windows // 150,
            "anomaly_rate": over / 200,
            "score_mean": mean,
            "score_max": mean * float(1.4 + self.rng.exponential(0.25)),
            "threshold": 0.9 if self.fleet.runs[name].endswith("/1") else 0.96,
            "drift_score": float(0.3 * np.exp(self.rng.normal(0, 0.2))),
            "inference_p50_us": 60 * own,
            "inference_p99_us": float(110 * own * harm * np.exp(self.rng.normal(0, 0.15))),
            "memory_pss_bytes": int(4.8e7 * np.exp(self.rng.normal(0, 0.004))),
            "sight": float(0.93 * np.exp(-abs(self.rng.normal(0, 0.02)))),
            "telemetry_bytes": int(lived * 9),
            "outbox_events": int(self.rng.integers(0, 4)),
            "promised_per_1000": 1.0,
            "supported_per_1000": 0.6,
            "promise_horizon_left": 40_000,
            "realised_alarms": int(windows * 0.0007 * own),
            "realised_windows": windows,
            "realised_low_per_1000": 0.4 * own,
            "realised_high_per_1000": 1.3 * own,
            "time_in_alarm_share": 0.004,
        }


def tell_story(fleet: SeededFleet, *also: Callable[[SeededFleet], None]) -> dict[str, str]:
    """Everything that happened, and `also` that, until `LASTS_S` after it began; the rollouts' ids by what became of them."""
    begins, past = fleet.now, Past(fleet)
    _open(fleet, past)
    past.live(2 * HOUR, every_s=LOOK_S)
    rollouts = {"completed": fleet.roll_out("motor v2, quieter", "motor/2", groups=GROUPS, gates=GATES)}
    past.live(3 * HOUR, every_s=LOOK_S, only=MOTORS)
    past.live(3 * HOUR)
    past.harm["motor/3"] = 1.7
    fleet.publish("motor", 3, provenance("motor", 3))
    past.live(HOUR, every_s=LOOK_S)
    rollouts["undone"] = fleet.roll_out("motor v3, more layers", "motor/3", groups=GROUPS, gates=GATES)
    past.live(2 * HOUR, every_s=LOOK_S, only=MOTORS)
    _trouble(fleet, past)
    past.live(begins + LASTS_S - 2 * HOUR - fleet.now)
    rollouts |= _begin_rollouts(fleet)
    past.live(2 * HOUR, every_s=LOOK_S)
    for more in also:
        more(fleet)
    past.say_alive()
    _end(fleet, past)
    return rollouts


def _open(fleet: SeededFleet, past: Past) -> None:
    for family, names, site in (
        ("motor", MOTORS, "hall-1"),
        ("pump", PUMPS, "hall-2"),
        ("fan", FANS, "roof"),
        ("lathe", LATHES, "workshop"),
        ("press", PRESSES, "hall-3"),
    ):
        fleet.publish(family, 1)
        fleet.publish(family, 2, provenance(family, 2))
        own = [name for name in names if name != HOSTILE]
        fleet.enrol(
            own, family=family, site=site, labels={"line": f"{family}s", "time_zone": "Europe/Berlin"}
        )
        past.arrive(own, f"{family}/1", labels={"firmware": "7.1"})
    labels = {"machine": fleet.evil(ATTRIBUTE) or "press brake", "owner": fleet.evil(LINK) or "shift B"}
    site = fleet.evil(ATTRIBUTE) or "hall-3"
    fleet.enrol([HOSTILE], family="press", site=site, labels=labels, reported=labels)
    past.arrive(
        [HOSTILE], "press/1", labels=labels, hardware=site, agent_version=fleet.evil(SCRIPT) or "1.4.2"
    )
    fleet.enrol([WAITING], family="conveyor", site="hall-4", needs_approval=True)


def _begin_rollouts(fleet: SeededFleet) -> dict[str, str]:
    gated = {"groups": [{"name": "canary", "count": 5, "soak_s": 12 * HOUR}, {"percentage": 100}]}
    running = fleet.roll_out("pump v2", "pump/2", gates=GATES, **gated)
    held = fleet.roll_out(
        f"fan v2 {fleet.evil(SCRIPT)}".strip(),
        "fan/2",
        groups=[{"count": 2, "soak_s": HOUR}, {"percentage": 100}],
    )
    fleet.advance()
    fleet.command(held, Verb.PAUSE)
    fleet.idle |= set(LATHES)
    lost = fleet.roll_out("lathe v2", "lathe/2", groups=[{"percentage": 100, "soak_s": HOUR}])
    fleet.advance()
    waiting = fleet.roll_out("press v2, for all", "press/2", starts=False, require_approval=True)
    canceled = fleet.roll_out("press v2, too early", "press/2", starts=False)
    fleet.command(canceled, Verb.CANCEL)
    ready = fleet.roll_out("press v2, at night, when nobody works", "press/2", starts=False)
    return {
        "running": running,
        "paused": held,
        "lost": lost,
        "waiting": waiting,
        "canceled": canceled,
        "ready": ready,
    }


def _trouble(fleet: SeededFleet, past: Past) -> None:
    now = fleet.now
    findings = (
        DetectorFinding(detector="page-hinkley", sensor="spindle_temperature", statistic=8.4, threshold=5.0),
        DetectorFinding(detector=IMAGE, sensor=SCRIPT, statistic=2.4, threshold=1.0),
    )
    shapes = (SensorShape(sensor=BREAKOUT, psi=0.8, psi_by_chance=0.05, ks=0.4, ks_by_chance=0.07),)
    fleet.hear(
        [
            past.message(SILENT, now - 1),
            past.message(REVOKED, now - 1),
            fleet.say(
                DRIFTED,
                DriftReport(
                    release="lathe/1",
                    state=DriftState.DRIFTED,
                    drift_score=2.4,
                    observed_at_s=now,
                    windows=400,
                    findings=findings,
                    severity=3.1,
                    shapes=shapes,
                ),
            ),
        ]
    )
    silent = fleet.machines[SILENT]
    fleet.hear([silent.arrival(Death(reason=DeathReason.LOST), sequence=0, at=fleet.now)])
    with fleet.database.write() as session:
        admission.revoke(session, REVOKED, actor=BOB.actor, now=now)
    fleet.store.note_limited({LOUD: 4120}, now)
    newer = of_a_newer_agent(fleet.say(LOUD, anomaly(release="press/1")))
    broken = Arrival(topic=newer.topic, payload=b'{"specversion": "<script>', retained=False, received_at=now)
    fleet.hear([newer, broken])
    _command(fleet, now)


def _double(fleet: SeededFleet, now: float) -> None:
    """Another device has the key of `DOUBLED`, and the two speak in turn."""
    first = fleet.machines[DOUBLED]
    second = Machine(name=DOUBLED, key=first.key, boot="boot-of-the-other", number=1)
    for turn in range(12):
        speaker = (first, second)[turn % 2]
        fleet.hear([speaker.arrival(health(release="lathe/1"), at=now - 12 + turn)])


def _command(fleet: SeededFleet, now: float) -> None:
    asked = Order(action=CommandAction.DIAGNOSE, expires_at=now + 86400)
    later = Order(action=CommandAction.RECOMMISSION, expires_at=now + 86400)
    with fleet.database.write() as session:
        given = give_commands(session, [HOSTILE, BLIND], asked, actor=BOB.actor, now=now)
        give_commands(session, [DRIFTED], later, actor=BOB.actor, now=now)
        write_settings(session, [DRIFTED], {"health.interval_s": 60.0}, actor=BOB.actor, now=now)
    answer = CommandResult(
        number=given.numbers[HOSTILE],
        action=CommandAction.DIAGNOSE,
        status=CommandStatus.FAILED,
        code=BREAKOUT[:64],
        reason=IMAGE,
    )
    fleet.hear([fleet.say(HOSTILE, answer)])


def _end(fleet: SeededFleet, past: Past) -> None:
    now = fleet.now
    blind = {
        "state": AgentState.BLIND,
        "interval_judged": 0,
        "missing": ("vibration_x", SCRIPT),
        "problems": (
            "the sensor vibration_x has delivered nothing for 42 minutes: look at its cable",
            f"the source said: {fleet.evil(IMAGE) or 'no data'}",
            fleet.evil(BREAKOUT) or "30 of the last 30 windows got no score",
        ),
        "sight": None,
    }
    drifted = {"drifted": True, "drift_score": 2.4, "drift_severity": 3.1}
    fleet.hear([past.message(BLIND, now - 5, **blind), past.message(DRIFTED, now - 4, **drifted)])
    _double(fleet, now)
    if not fleet.is_polite:
        fleet.hear([past.message(HOSTILE, now - 3, training_run=SCRIPT, problems=(SCRIPT,))])
    fleet.roll_up()


def raise_alarms(fleet: SeededFleet) -> None:
    """An inbox: 24 alarms with windows, half of them over, and a storm of 120 within three minutes."""
    now, rng = fleet.now, np.random.default_rng(4)
    told = []
    for number in range(24):
        name = (*MOTORS[:8], HOSTILE, *PUMPS[:3])[number % 12]
        began = now - 10 * HOUR + number * 1400
        told.append(fleet.say(name, _alarm(fleet, name, number, rng, at=began), at=began))
        if number % 2:
            end = closed(f"e-{number}", release=fleet.runs[name], observed_at_s=began + 90, lasted_s=90.0)
            told.append(fleet.say(name, end, at=began + 90))
    for number in range(120):
        name, began = MOTORS[number % len(MOTORS)], now - 1800 + number * 1.5
        told.append(fleet.say(name, _alarm(fleet, name, 100 + number, rng, at=began), at=began))
    fleet.hear(told)


def _alarm(fleet: SeededFleet, name: str, number: int, rng: np.random.Generator, *, at: float) -> Any:
    times = np.linspace(0, 6 * np.pi, 64)
    window = np.stack([np.sin(times), np.cos(1.3 * times), rng.normal(0, 0.2, 64)], axis=1)
    window[40:48, 0] += 2.5
    return anomaly(
        release=fleet.runs[name],
        score=1.0 + 3 * float(rng.random()),
        threshold=0.9,
        window_index=int(at) // 10,
        observed_at_s=at,
        contributors=("rms_x", "kurtosis_x", "band_2_y")
        if name != HOSTILE or fleet.is_polite
        else (SCRIPT, IMAGE, BREAKOUT),
        window=base64.b64encode(window.astype("<f4").tobytes()).decode(),
        window_shape=window.shape,
        episode=f"e-{number}",
    )
