"""What runs a release on a device: tried in a child process, the processor when in doubt, one line that says why."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from agent_world import TRUSTED, make_bundle, running_agent, status_of, write_device
from waiting import wait_until

sys.path.append(str(Path(__file__).parents[1] / "models"))
from delegate_libraries import build

from edge_agent.delegate_choice import ChildTrial, DelegateChoice, ProbeWithDelegate
from edge_agent.installation.probe_result import ProbeResult
from edge_agent.settings import load_agent_settings
from models.bundles import ModelBundle, read_bundle
from models.delegates import Delegate, DelegateVerdict
from models.errors import DelegateError, ExecutionError, InputError
from models.int8_model import Int8Model
from protocol.bundle import open_bundle
from runtime.errors import SettingsError

pytestmark = pytest.mark.edge


def bundle() -> ModelBundle:
    return read_bundle(open_bundle(make_bundle(), TRUSTED))


class FakeTrial:
    """`DelegateTrial` whose verdict the test decides."""

    def __init__(self, *, is_accepted: bool) -> None:
        self._is_accepted = is_accepted
        self.tried: list[tuple[Delegate, Path | None]] = []

    def run(self, delegate: Delegate, library: Path | None, bundle: ModelBundle) -> DelegateVerdict:
        self.tried.append((delegate, library))
        return DelegateVerdict(delegate=delegate, is_accepted=self._is_accepted, reason="as the test says")


def opened(choice: DelegateChoice, release: ModelBundle):
    return choice.open(release.int8_model, release.architecture.kind, release.sha256)


def test_without_a_library_on_the_device_auto_tries_nothing_and_says_nothing(caplog) -> None:
    trial = FakeTrial(is_accepted=True)
    choice = DelegateChoice("auto", None, trial, find=lambda _: None)
    choice.prepare(bundle())
    opened(choice, bundle())
    assert (trial.tried, choice.running, caplog.text) == ([], "xnnpack", "")


def test_a_wanted_delegate_without_a_library_is_refused_in_one_clear_line(caplog) -> None:
    choice = DelegateChoice("gpu", None, FakeTrial(is_accepted=True), find=lambda _: None)
    choice.prepare(bundle())
    opened(choice, bundle())
    assert choice.running == "xnnpack"
    (line,) = (record.message for record in caplog.records)
    assert line.startswith(
        "delegate_refused release=pump/1 delegate=gpu reason=no library libtensorflowlite_gpu"
    )
    assert line.endswith("here: the processor runs it")


def test_an_edge_tpu_needs_a_model_that_was_compiled_for_it(caplog) -> None:
    choice = DelegateChoice(
        "edgetpu", None, FakeTrial(is_accepted=True), find=lambda _: Path("/lib/libedgetpu.so.1")
    )
    choice.prepare(bundle())
    assert "the release brings no model compiled for it" in caplog.text


def test_an_accepted_delegate_runs_the_release_it_was_tried_with_and_no_other(tmp_path) -> None:
    library = build(tmp_path, "idle")
    choice = DelegateChoice("auto", None, FakeTrial(is_accepted=True), find=lambda _: library)
    release = bundle()
    choice.prepare(release)
    x = np.ones(6, np.float32)
    expected = Int8Model(release.int8_model).infer_and_score(x)[1]
    assert opened(choice, release).infer_and_score(x)[1] == pytest.approx(expected, rel=0.05)
    assert choice.running == "gpu"
    choice.open(release.int8_model, release.architecture.kind, "another")
    assert choice.running == "xnnpack"


def test_a_refused_delegate_leaves_the_release_to_the_processor(caplog) -> None:
    choice = DelegateChoice("gpu", Path("/opt/lib.so"), trial := FakeTrial(is_accepted=False))
    choice.prepare(bundle())
    opened(choice, bundle())
    assert trial.tried == [(Delegate.GPU, Path("/opt/lib.so"))]
    assert choice.running == "xnnpack"
    assert "delegate=gpu reason=as the test says: the processor runs it" in caplog.text


def test_cpu_means_no_delegate_at_all() -> None:
    choice = DelegateChoice("cpu", None, FakeTrial(is_accepted=True))
    choice.prepare(bundle())
    assert opened(choice, bundle()).infer_and_score(np.ones(6, np.float32))[1] > 0
    assert choice.running == "cpu"


class Unplugged:
    """A model whose accelerator is pulled out after some windows."""

    def __init__(self, windows: int) -> None:
        self._left = windows

    def infer_and_score(self, x: np.ndarray) -> tuple[np.ndarray, float]:
        self._left -= 1
        if self._left < 0:
            raise ExecutionError("device\nlost")
        return x, 0.125


def test_a_delegate_that_is_unplugged_costs_no_window(caplog) -> None:
    choice = DelegateChoice(
        "gpu", Path("/opt/lib.so"), FakeTrial(is_accepted=True), opener=lambda *_: Unplugged(2)
    )
    release = bundle()
    choice.prepare(release)
    model, x = opened(choice, release), np.ones(6, np.float32)
    right = Int8Model(release.int8_model).infer_and_score(x)[1]
    assert [model.infer_and_score(x)[1] for _ in range(4)] == [0.125, 0.125, right, right]
    assert choice.running == "xnnpack"
    assert caplog.text.count("delegate_failed delegate=gpu reason=device lost: the processor goes on") == 1
    opened(choice, release)
    assert choice.running == "xnnpack"


def test_a_bad_window_is_not_the_delegates_fault(tmp_path) -> None:
    choice = DelegateChoice("gpu", build(tmp_path, "idle"), FakeTrial(is_accepted=True))
    release = bundle()
    choice.prepare(release)
    with pytest.raises(InputError):
        opened(choice, release).infer_and_score(np.full(6, np.nan, np.float32))
    assert choice.running == "gpu"


def test_a_delegate_that_fails_when_the_model_is_opened_leaves_it_to_the_processor(caplog) -> None:
    def refuse(*_: object) -> Unplugged:
        raise DelegateError("the stick is gone")

    choice = DelegateChoice("gpu", Path("/opt/lib.so"), FakeTrial(is_accepted=True), opener=refuse)
    choice.prepare(bundle())
    assert opened(choice, bundle()).infer_and_score(np.ones(6, np.float32))[1] > 0
    assert "delegate_failed delegate=gpu reason=the stick is gone" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        ("crash", r"it crashed its trial \(SIGABRT\)"),
        ("absent", "no device on the bus"),
        ("hang", "it gave no answer within 3 s"),
    ],
)
def test_a_library_that_does_harm_does_it_to_the_child(tmp_path, behaviour, words) -> None:
    wall_s = 3.0 if behaviour == "hang" else 60.0  # a cold Python under emulation takes ten seconds
    verdict = ChildTrial(wall_s=wall_s).run(Delegate.GPU, build(tmp_path, behaviour), bundle())
    assert not verdict.is_accepted
    assert re.search(words, verdict.reason), verdict.reason


def test_a_real_library_that_saves_nothing_is_measured_and_refused(tmp_path) -> None:
    verdict = ChildTrial(wall_s=60.0).run(Delegate.GPU, build(tmp_path, "idle"), bundle())
    assert verdict.processor_latency_us > 0
    assert verdict.worst_steps <= 2


def test_a_child_that_cannot_be_started_is_a_verdict(tmp_path) -> None:
    verdict = ChildTrial(command=(str(tmp_path / "no-python"),)).run(Delegate.GPU, None, bundle())
    assert "cannot be started" in verdict.reason


def test_a_trial_on_a_full_disk_is_a_verdict_and_the_agent_starts(monkeypatch) -> None:
    def full() -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("edge_agent.delegate_choice.tempfile.TemporaryFile", full)
    verdict = ChildTrial().run(Delegate.GPU, None, bundle())
    assert not verdict.is_accepted
    assert "No space left" in verdict.reason


class FakeProbe:
    def __init__(self, result: ProbeResult | None) -> None:
        self._result = result

    def run(self, release: str, content: bytes, is_interrupted) -> ProbeResult | None:
        return self._result


@pytest.mark.parametrize(("result", "count"), [(ProbeResult(), 1), (None, 0)])
def test_a_release_is_tried_on_the_delegate_once_it_passed_its_probe(result, count) -> None:
    trial = FakeTrial(is_accepted=True)
    choice = DelegateChoice("gpu", Path("/opt/lib.so"), trial)
    probe = ProbeWithDelegate(FakeProbe(result), choice)
    assert probe.run("pump/1", make_bundle(), lambda: False) is result
    assert len(trial.tried) == count


@pytest.mark.slow
def test_an_agent_with_a_crashing_library_watches_on_the_processor(tmp_path) -> None:
    library = build(tmp_path, "crash")
    rows = np.random.default_rng(0).normal(size=(400, 6)).astype(np.float32)
    extra = f'[inference]\ndelegate = "gpu"\nlibrary = "{library}"\n'
    config = write_device(tmp_path, rows=rows, bundle=make_bundle(), extra=extra)
    with running_agent(config):
        wait_until(lambda: status_of(config).get("last_score") is not None, "a score")
        assert status_of(config)["delegate"] == "xnnpack"
    assert (
        "delegate_refused release=pump/1 delegate=gpu reason=it crashed its trial (SIGABRT)"
        in (tmp_path / "agent.log").read_text()
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('delegate = "tpu"', "inference.delegate = 'tpu' is not valid"),
        ('library = "x.so"', "it belongs to 'edgetpu' or 'gpu'"),
        ('delegat = "gpu"', "did you mean 'inference.delegate'"),
    ],
)
def test_wrong_delegate_settings_are_refused_with_what_is_valid(tmp_path, text, words) -> None:
    config = write_device(tmp_path, rows=np.zeros((2, 6), np.float32), extra=f"[inference]\n{text}\n")
    with pytest.raises(SettingsError, match=words):
        load_agent_settings(config)


@pytest.mark.slow
def test_a_stop_that_comes_while_a_delegate_is_tried_is_a_clean_one(tmp_path) -> None:
    library = build(tmp_path, "late")
    rows = np.random.default_rng(0).normal(size=(10, 6)).astype(np.float32)
    extra = f'[inference]\ndelegate = "gpu"\nlibrary = "{library}"\n'
    config = write_device(tmp_path, rows=rows, bundle=make_bundle(), extra=extra)
    with running_agent(config) as agent:
        wait_until(lambda: children_of(agent.pid) != [], "the trial")
        agent.terminate()
        assert agent.wait() == 0
    assert "it crashed its trial (SIGABRT)" in (tmp_path / "agent.log").read_text()


def children_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
