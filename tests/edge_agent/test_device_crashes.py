"""Kill -9 and power cuts at every write of a device: nothing told is lost or doubled, something verified always runs."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import agent_world
import commands_world
import pytest
from agent_loop_world import World
from device_crashes import WORDS, told
from fault_laboratory.crash_states import record_crashes
from installation_world import Device, make_bundle
from privacy_world import WINDOWS_A_DAY, Owned, asked, devices

from edge_agent.errors import PrivacyRefusedError
from protocol.messages.kinds import CommandStatus, InstallStatus, InstallStep
from protocol.questions import FIT, SCALE

pytestmark = pytest.mark.slow
PROGRAM = Path(__file__).with_name("device_crashes.py")


@pytest.mark.parametrize(("others_every", "every"), [(40, 3), pytest.param(1, 1, marks=pytest.mark.long)])
def test_an_anomaly_is_at_the_fleet_exactly_once_whatever_write_a_device_dies_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], others_every: int, every: int
) -> None:
    crashes = record_crashes(tmp_path, PROGRAM, "device")
    states = crashes.states(others_every=others_every, but_for="status.json")
    for state in itertools.islice(states, 0, None, every):
        with state.on_disk() as folder:
            world = World(folder, "b9")
            world.watch(agent_world.healthy(2, seed=8))
            resent = dict(map(told, world.link.sent))
        sent = dict(line.split() for line in state.said("sent"))
        acked = set(state.said("acked"))
        lost = {event for event, about in sent.items() if about != "-" and event not in acked | set(resent)}
        assert not lost, f"{state}: told to the broker, and neither stored nor sent again"
        for fleet in (sent | resent, {event: sent[event] for event in acked if event in sent} | resent):
            doubled = [
                about for about, count in Counter(fleet.values()).items() if about != "-" and count > 1
            ]
            assert not doubled, f"{state}: {doubled}"
    crashes.show(capsys, at_least=400)


def test_something_verified_runs_whatever_write_an_installation_dies_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    crashes = record_crashes(tmp_path, PROGRAM, "installation")
    for state in crashes.states():
        ended, asked = state.said("ended"), [line.split() for line in state.said("asked")]
        with state.on_disk() as folder:
            device = Device(folder)
            before = ended[-1] if ended else None
            assert device.release in {before, *(f"pump/{asked[-1][0]}" for _ in asked[-1:])}, str(state)
            if asked:
                # The broker delivers the retained desired state again, and the device ends where it would have ended.
                version, verdict = int(asked[-1][0]), asked[-1][1]
                desired = device.fleet.offer(make_bundle(version), version)
                device.work()
                device.submit(desired)
                device.watch(error="the interpreter refused the window" if verdict == "bad" else None)
                final = {report.execution: report for report in device.reports}[f"e{version}"]
                good = (f"pump/{version}", InstallStatus.SUCCEEDED)
                bad = (f"pump/{version - 1}", InstallStatus.ROLLED_BACK)
                assert (device.release, final.status) == (good if verdict == "good" else bad), str(state)
                assert device.installer.step() is InstallStep.IDLE, str(state)
            device.installer.close()
    crashes.show(capsys, at_least=250)


def test_nothing_leaves_uncharged_or_twice_whatever_write_the_privacy_account_dies_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    crashes = record_crashes(tmp_path, PROGRAM, "privacy")
    for state in crashes.states():
        began, answered, revealed = (state.said(word) for word in ("began", "answered", "revealed"))
        day = began[-1] if began else "3"
        with state.on_disk() as folder:
            device = Owned(folder, day=int(day))
            db = device.account._file._db
            for what, table in ((answered, "charges"), (answered, "answers"), (revealed, "reveals")):
                stored = db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]  # noqa: S608 - a name from above
                assert len(what) <= stored <= len(what) + 1, f"{state}: {table}"
            # It goes on: from the windows that it said it answers from, and with nothing that it revealed from them already.
            newest = int(day) * WINDOWS_A_DAY - 1
            device.watch(10)
            allowed = {newest} if f"{newest}" in state.said("windows") else {newest, newest + 10}
            assert device.snapshot().machine_s[-1] in allowed, str(state)
            if f"evaluate.scale {day} none" in revealed:
                with pytest.raises(PrivacyRefusedError, match="revealed 1 times"):
                    device.account.check(asked(SCALE))
            if f"train.fit {day} none" in revealed:
                with pytest.raises(PrivacyRefusedError, match="a, b, c, d only"):
                    device.account.check_cohort(asked(FIT), devices("abc"))
            if len(began) > 1 and f"evaluate.scale {int(day) - 1} none" in revealed:
                with pytest.raises(PrivacyRefusedError, match=r"much the same windows|revealed 1 times"):
                    device.account.check_cohort(asked(SCALE), devices("abc"))
            device.answer(asked(FIT))
            device.account.close()
    crashes.show(capsys, at_least=150)


def test_a_command_is_done_at_most_once_and_its_end_is_told_whatever_write_a_device_dies_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    crashes = record_crashes(tmp_path, PROGRAM, "commands")
    for state in crashes.states():
        deeds = Counter(map(int, state.said("deed")))
        before = [(int(number), status) for number, status in map(str.split, state.said("told"))]
        lines: list[str] = []
        with state.on_disk() as folder:
            device = commands_world.Device(folder)
            for deed in device.deeds.values():
                deed.note = lines.append
            device.deeds["recommission"].later = CommandStatus.DONE
            device.deeds["recommission"].later = CommandStatus.DONE
            device.hear(*WORDS)
            after = [(result.number, result.status.value) for result in device.turn(12)]
        deeds += Counter(int(line.split()[1]) for line in lines)
        for word in WORDS:
            number, is_repeatable = word.number, word.action == "diagnose"
            assert deeds[number] <= 1 + is_repeatable, f"{state}: {number} was done {deeds[number]} times"
            ends = [status for one, status in before + after if one == number and status != "IN_PROGRESS"]
            assert ends, f"{state}: nobody hears what became of {number}"
            assert ends[:1] != ["DONE"] or deeds[number], f"{state}: {number} is said to be done and was not"
    crashes.show(capsys, at_least=60)
