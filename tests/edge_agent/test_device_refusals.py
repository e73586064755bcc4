"""A disk that is full, broken or read-only from any change on: the device goes on, says so, and loses nothing once it heals."""

from __future__ import annotations

from pathlib import Path

import pytest
from fault_laboratory.crash_states import run_under_faults

pytestmark = pytest.mark.slow


PROGRAM = Path(__file__).with_name("device_refusals.py")


def lives(folder: Path, part: str, every: int, capsys: pytest.CaptureFixture[str]) -> list[str]:
    _, printed = run_under_faults(folder, PROGRAM, part, str(every))
    found = [line for line in printed.splitlines() if line.startswith("OUTCOME ")]
    with capsys.disabled():
        print(f"\n{part}: {len(found)} lives on a disk that refused", end=" ")
    return found


@pytest.mark.parametrize("every", [19, pytest.param(1, marks=pytest.mark.long)])
def test_a_disk_that_refuses_any_change_costs_a_device_no_window_and_no_anomaly(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], every: int
) -> None:
    found = lives(tmp_path, "watch", every, capsys)
    assert [line for line in found if not line.endswith(": fine")] == []
    assert len(found) >= 400 // every


@pytest.mark.parametrize("every", [7, pytest.param(1, marks=pytest.mark.long)])
def test_a_disk_that_refuses_any_change_of_an_installation_stops_neither_the_device_nor_the_release(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], every: int
) -> None:
    found = lives(tmp_path, "install", every, capsys)
    assert [line for line in found if not line.endswith(": fine")] == []
    assert len(found) >= 200 // every


@pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.long)])
def test_a_disk_that_refuses_any_change_lets_no_answer_leave_without_its_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], every: int
) -> None:
    found = lives(tmp_path, "answer", every, capsys)
    assert [line for line in found if not line.endswith(": fine")] == []
    assert len(found) >= 400 // every
