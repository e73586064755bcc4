"""`fedge-sim run demo --data pronostia=…`: the main job on real input, as a user calls it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading

import pytest
from listeners import Listener, listeners
from recordings import DATA, needs

pytestmark = [
    pytest.mark.slow,
    pytest.mark.long,
    needs("pronostia"),
]


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    home = tmp_path_factory.mktemp("demo")
    command = [
        *(sys.executable, "-m", "simulations", "run", "demo", "--data", f"pronostia={DATA / 'pronostia'}"),
        *("--json", str(home / "out.json"), "--report", str(home / "report.html")),
        *("--directory", str(home / "world")),
    ]
    seen: set[Listener] = set()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        is_over = threading.Event()

        def look() -> None:
            while not is_over.wait(1.0):
                seen.update(listeners(child.pid))

        looking = threading.Thread(target=look)
        looking.start()
        out, err = child.communicate()
        is_over.set()
        looking.join()
    assert child.returncode == 0, out[-2000:] + err[-2000:]
    assert err == "", "the screen belongs to the user"
    assert (home / "report.html").stat().st_size > 10_000
    found: dict[str, dict[str, object]] = json.loads((home / "out.json").read_text())
    return found | {"listeners": {str(number): one for number, one in enumerate(sorted(seen))}}


def figure(outcome: dict[str, dict[str, object]], name: str) -> float:
    value = outcome["figures"][name]
    assert isinstance(value, int | float), f"{name} is {value!r}"
    return float(value)


def false_alarms(outcome: dict[str, dict[str, object]], who: str) -> float:
    comparison = outcome["figures"]["comparison"]
    assert isinstance(comparison, dict)
    return float(comparison[f"mid-life false alarms, {who} (% of windows)"])


def test_false_alarms_after_learning_together_are_clearly_below_version_1(
    outcome: dict[str, dict[str, object]],
) -> None:
    assert false_alarms(outcome, "learned together") < 0.2 * false_alarms(outcome, "version 1")


def test_the_end_of_a_real_bearings_life_is_caught_and_published_once(
    outcome: dict[str, dict[str, object]],
) -> None:
    assert figure(outcome, "faults_caught") == 1
    assert figure(outcome, "times_published") == 1


def test_the_bad_release_is_undone_within_thirty_seconds(outcome: dict[str, dict[str, object]]) -> None:
    assert figure(outcome, "seconds_to_recover") <= 30 * figure(outcome, "pace")
    assert outcome["figures"]["final_release"] == "rotating-machine/2"


def test_nearly_all_bandwidth_is_saved(outcome: dict[str, dict[str, object]]) -> None:
    assert figure(outcome, "bandwidth_saved_pct") >= 99


def test_the_json_tells_every_figure_of_the_last_screen(outcome: dict[str, dict[str, object]]) -> None:
    for name in (
        "devices", "windows", "faults_injected", "inference_p50_us", "inference_p99_us", "agent_memory_mb", "rounds",
        "seconds_per_round", "int8_error", "seconds_to_roll_out", "training_bytes", "update_bytes",
    ):  # fmt: skip
        assert figure(outcome, name) > 0, name


def test_its_broker_fleet_and_aggregator_listen_on_four_ports_of_loopback_and_its_devices_nowhere(
    outcome: dict[str, dict[str, object]],
) -> None:
    seen = list(outcome["listeners"].values())
    assert len(seen) == 4, seen
    assert all(isinstance(one, Listener) and one.is_loopback and one.protocol == "tcp" for one in seen), seen
