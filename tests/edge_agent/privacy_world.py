"""A device's account as a test asks it: sums by kind and devices, time that stands until it is told to go on."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from edge_agent.privacy.account import AskedSum, DeviceAccount
from edge_agent.privacy.elapsed import Moment
from edge_agent.privacy.limits import ChargeLimits, OwnerLimits
from edge_agent.privacy.snapshots import Content
from edge_agent.sample_buffer import BufferedRows
from protocol.names import DeviceId
from protocol.privacy_cost import RoundNoise
from protocol.questions import FIT, Kind

DAY_S = 86_400.0
BARE = RoundNoise(mechanism="none")
CONTENT = Content(columns="ab" * 32, scale="1")
ALL = "abcd"
WINDOWS_A_DAY = 60
_numbers = itertools.count()


def devices(names: Iterable[str]) -> frozenset[DeviceId]:
    return frozenset(map(DeviceId, names))


def noise(multiplier: float, *, shares: int = 4, colluders: int = 0) -> RoundNoise:
    """What is left of the noise of `shares` honest devices is `multiplier` times the clip."""
    return RoundNoise(
        mechanism="discrete-gaussian",
        clip=1.0,
        noise_multiplier=multiplier,
        sensitivity=1000.0,
        local_noise=multiplier * 1000.0 / shares**0.5,
        noise_shares=shares,
        colluders=colluders,
    )


def asked(
    kind: Kind = FIT,
    *,
    run: str = "run-1",
    session: str | None = None,
    round_number: int = 1,
    noise: RoundNoise = BARE,
    announced: ChargeLimits = ChargeLimits(),  # noqa: B008 - an immutable value
) -> AskedSum:
    """One attempt, each with a session of its own."""
    return AskedSum(
        kind=kind,
        run=run,
        round_number=round_number,
        session=f"s-{next(_numbers)}" if session is None else session,
        noise=noise,
        announced=announced,
    )


class Clock:
    """Both clocks of a device; `wall` alone may be set."""

    def __init__(self) -> None:
        self.boot, self.uptime_s, self.wall_s = "boot-1", 100.0, 1.8e9

    def __call__(self) -> Moment:
        return Moment(boot=self.boot, uptime_s=self.uptime_s, wall_s=self.wall_s)

    def pass_s(self, seconds: float) -> None:
        self.uptime_s += seconds
        self.wall_s += seconds

    def restart(self, *, off_s: float = 60.0) -> None:
        self.boot, self.uptime_s = f"{self.boot}+", 5.0
        self.wall_s += off_s


class Owned:
    """A device's account, its buffer and its clock.

    Args:
        folder: of its state.
        limits: of its owner.
        day: when it is, and how many windows have come by then.
    """

    def __init__(self, folder: Path, limits: OwnerLimits = OwnerLimits(), *, day: int = 0) -> None:  # noqa: B008 - an immutable value
        self.folder, self.limits, self.clock = folder, limits, Clock()
        self.first = self.windows = 0
        self.clock.pass_s(day * DAY_S)
        self.watch(day * WINDOWS_A_DAY)
        self.open()

    def open(self) -> DeviceAccount:
        """As a new learner opens it."""
        self.account = DeviceAccount(
            self.folder / "privacy.sqlite", self.limits, clock=self.clock, snapshots=self.folder / "snapshot"
        )
        return self.account

    def watch(self, windows: int) -> None:
        """As many windows come into the buffer."""
        self.windows += windows

    def buffered(self, newest: int = 200) -> BufferedRows:
        """What lies in the buffer: one window a second, none twice."""
        times = np.arange(max(self.first, self.windows - newest), self.windows, dtype=np.float64)
        return BufferedRows(
            rows=np.stack([times, -times], axis=1).astype(np.float32), machine_s=times, wall_s=1.8e9 + times
        )

    def snapshot(self, content: Content = CONTENT) -> BufferedRows:
        """The rows a learner that starts now answers from."""
        return self.account.take_snapshot(content, self.buffered())

    def mask(self, question: AskedSum, cohort: Iterable[str] = ALL) -> AskedSum:
        """Up to the masked answer."""
        self.account.check(question)
        self.account.check_cohort(question, devices(cohort))
        self.account.charge(question, now_s=self.clock.wall_s)
        return question

    def answer(
        self, question: AskedSum, cohort: Iterable[str] = ALL, survivors: Iterable[str] | None = None
    ) -> None:
        """A whole round."""
        self.mask(question, cohort)
        self.account.reveal(question, devices(cohort if survivors is None else survivors))
