"""A device whose disk refuses: `python device_refusals.py ROOT watch|install|answer EVERY`, one life for each errno and each EVERY-th change.

A commissioned device starts, sees a fault and its end, or installs a release; from change N on its disk refuses once, or until
it is healed. Each life ends with a line ``OUTCOME errno=… from=… count=…: what was wrong, or fine``.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import agent_world
from agent_loop_world import World
from device_crashes import told
from fault_laboratory.machine_faults import FOR_EVER, MachineFaults
from installation_world import Device, make_bundle
from privacy_world import ALL, Owned, asked, devices

from edge_agent.errors import PrivacyRefusedError
from protocol.messages.kinds import InstallStatus
from protocol.questions import FIT, SCALE
from runtime.durable_files import private_directory
from runtime.errors import FedgeError, StorageError

FAULTY, CALM = 4, 8
HEALTH_EVERY_S = 10.0
"""In the settings of `agent_loop_world`: what waits in memory goes to a healed disk with the next message, at the latest."""

Life = Callable[[Path, MachineFaults, "Complaints"], str]


def live(root: Path, every: int, prepare: Callable[[Path], None], live_once: Life) -> None:
    """Every life, one after the other."""
    faults = MachineFaults.of_this_process()
    prepare(root / "ready")
    complaints = Complaints()
    logging.getLogger().addHandler(complaints)
    number = itertools.count()
    for error, count in itertools.product((errno.ENOSPC, errno.EIO, errno.EROFS), (1, FOR_EVER)):
        for first in itertools.count(next(number) % every, every):
            folder = root / "life"
            shutil.copytree(root / "ready", folder)
            complaints.lines.clear()
            began, refused = faults.changes, faults.refused
            faults.refuse(error, first=began + first, count=count)
            verdict = live_once(folder, faults, complaints)
            is_over = faults.refused == refused
            shutil.rmtree(folder)
            if is_over:
                break
            times = "once" if count == 1 else "until healed"
            print(f"OUTCOME {errno.errorcode[error]} from={first} {times}: {verdict}", flush=True)


def commission(folder: Path) -> None:
    """A device that watches."""
    private_directory(folder / "state")
    world = World(folder, "b1")
    world.watch(agent_world.healthy(64, seed=3))
    world.agent._farewell()
    world.outbox.close()


def watch_once(folder: Path, faults: MachineFaults, complaints: Complaints) -> str:
    """One life with the knobs as they are; returns what was wrong with it, or ``fine``."""
    refused = faults.refused
    world = World(folder, "b2")
    windows = world.counters.windows
    world.watch(agent_world.faulty(FAULTY, seed=1))
    world.watch(agent_world.healthy(CALM, seed=1))
    was_refused = faults.refused - refused
    faults.heal()
    world.watch(agent_world.healthy(2, seed=2))
    world.now_s += HEALTH_EVERY_S
    world.turn()
    world.turn()
    if world.counters.windows - windows != FAULTY + CALM + 2:
        return f"{world.counters.windows - windows} windows counted"
    if was_refused > 1 and not complaints.lines:
        return "the disk refused, and nothing was said"
    opened = {about for _, about in map(told, world.link.sent) if about != "-"}
    if len(opened) != 2:
        return f"said {sorted(opened)}: not one opening and its end"
    after = World(folder, "b3")
    after.watch(agent_world.healthy(2, seed=4))
    resent = {about for _, about in map(told, after.link.sent)}
    if missing := opened - resent:
        return f"{sorted(missing)} not on the disk after it was healed"
    after.outbox.close()
    return "fine"


def install_first(folder: Path) -> None:
    """A device that runs pump/1."""
    folder.mkdir()
    device = Device(folder)
    device.install(1)
    device.installer.close()


def install_once(folder: Path, faults: MachineFaults, complaints: Complaints) -> str:
    """A newer release comes while the disk refuses; the broker delivers the wish again once it is healed."""
    refused = faults.refused
    try:
        device = Device(folder)
    except FedgeError:  # said in one line; the init system starts the agent again
        faults.heal()
        device = Device(folder)
    desired = device.fleet.offer(make_bundle(2), 2)
    device.submit(desired)
    device.watch()
    if device.release not in {"pump/1", "pump/2"}:
        return f"{device.release} runs"
    if faults.refused > refused + 1 and not complaints.lines and not any(r.reason for r in device.reports):
        return "the disk refused, and nothing was said"
    faults.heal()
    device.submit(desired)
    device.watch()
    final = {report.execution: report.status for report in device.reports}["e2"]
    if final is InstallStatus.FAILED:  # the fleet tries again, under a new counter
        device.install(2, counter=3)
        final = {report.execution: report.status for report in device.reports}["e3"]
    device.installer.close()
    after = Device(folder)
    if (final, after.release) != (InstallStatus.SUCCEEDED, "pump/2"):
        return f"{final} with {after.release} after it was healed"
    after.installer.close()
    return "fine"


def answer_first(folder: Path) -> None:
    """A device that has answered for a day."""
    folder.mkdir()
    device = Owned(folder, day=1)
    device.snapshot()
    device.answer(asked(SCALE))
    device.account.close()


def answer_once(folder: Path, faults: MachineFaults, complaints: Complaints) -> str:
    """The next day: what left the device while its disk refused is on record once it is healed, and is not asked again."""
    left, newest = list[str](), None
    try:
        device = Owned(folder, day=2)
        newest = device.snapshot().machine_s[-1]
        for kind in (SCALE, FIT, FIT):
            question = device.mask(asked(kind))
            left.append(f"answered {kind}")
            device.account.reveal(question, devices(ALL))
            left.append(f"revealed {kind}")
    except (StorageError, PrivacyRefusedError) as error:
        complaints.lines.append(str(error))
    if newest is not None:
        device.account.close()
    faults.heal()
    after = Owned(folder, day=2)
    stored = [
        f"answered {kind}"
        for (kind,) in after.account._file._db.execute("SELECT kind FROM answers WHERE number > 1")
    ] + [
        f"revealed {kind}"
        for (kind,) in after.account._file._db.execute(
            "SELECT kind FROM reveals JOIN answers USING (number) WHERE number > 1"
        )
    ]
    if missing := Counter(left) - Counter(stored):
        return f"{dict(missing)} left the device and is not on record"
    again = after.snapshot().machine_s[-1]
    if left and again < newest:
        return f"answers were given from window {newest}, and now from {again}"
    if f"revealed {SCALE}" in left and again == newest:
        with contextlib.suppress(PrivacyRefusedError):
            after.account.check(asked(SCALE))
            return "a question was asked twice of one snapshot"
    after.answer(asked(FIT))
    after.account.close()
    return "fine"


class Complaints(logging.Handler):
    """What a person would read."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if "anomaly_opened" not in record.getMessage() and "source_ended" not in record.getMessage():
            self.lines.append(record.getMessage())


if __name__ == "__main__":
    parts = {
        "watch": (commission, watch_once),
        "install": (install_first, install_once),
        "answer": (answer_first, answer_once),
    }
    live(Path(sys.argv[1]), int(sys.argv[3]), *parts[sys.argv[2]])
