"""A delegate is believed when it answers like the processor, and faster; everything else is a reason in words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from delegate_libraries import build
from model_samples import int8_bytes, windows

from models.bundles import GoldenVectors, Int8Inference, make_golden_vectors
from models.delegates import Delegate, find_library, open_with_delegate, try_delegate
from models.errors import DelegateError, ExecutionError
from models.int8_model import Int8Model

pytestmark = pytest.mark.edge


class FakeClock:
    """Seconds that pass only while a model runs."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class FakeModel:
    """Answers like the real model, some steps off, in the time it is told to take."""

    def __init__(self, clock: FakeClock, latency_s: float, steps_off: int = 0, outputs: int = 6) -> None:
        self._model, self._clock = Int8Model(int8_bytes("autoencoder")), clock
        self._latency_s, self._steps_off, self._outputs = latency_s, steps_off, outputs

    def infer_int8(self, x: np.ndarray) -> np.ndarray:
        self._clock.now_s += self._latency_s
        right = self._model.infer_int8(x)[: self._outputs].astype(int)
        return np.clip(right + np.where(right < 0, self._steps_off, -self._steps_off), -128, 127).astype(
            np.int8
        )


class FakeOpener:
    """Opens models without a library: the processor takes 20 µs, the delegate is what the test says."""

    def __init__(self, clock: FakeClock, accelerated: FakeModel | Exception) -> None:
        self._clock, self._accelerated = clock, accelerated
        self.opened: list[tuple[Delegate, bytes]] = []

    def __call__(self, content: bytes, kind: str, delegate: Delegate) -> Int8Inference:
        self.opened.append((delegate, content))
        if delegate is Delegate.XNNPACK:
            return FakeModel(self._clock, 20e-6)
        if isinstance(self._accelerated, Exception):
            raise self._accelerated
        return self._accelerated


def golden() -> GoldenVectors:
    return make_golden_vectors(Int8Model(int8_bytes("autoencoder")), 6)


def trial(accelerated: FakeModel | Exception, clock: FakeClock):
    opener = FakeOpener(clock, accelerated)
    verdict = try_delegate(
        opener,
        Delegate.EDGETPU,
        int8_model=b"int8",
        compiled_model=b"compiled",
        kind="dense-autoencoder",
        golden=golden(),
        clock=clock,
    )
    assert opener.opened == [(Delegate.XNNPACK, b"int8"), (Delegate.EDGETPU, b"compiled")]
    return verdict


def test_a_delegate_that_answers_like_the_processor_and_faster_is_accepted() -> None:
    clock = FakeClock()
    verdict = trial(FakeModel(clock, 5e-6, steps_off=2), clock)
    assert verdict.is_accepted
    assert verdict.reason == "5.0 µs a window against the processor's 20.0 µs"
    assert verdict.worst_steps == 2


def test_a_delegate_that_answers_otherwise_is_refused_however_fast() -> None:
    clock = FakeClock()
    verdict = trial(FakeModel(clock, 1e-9, steps_off=3), clock)
    assert not verdict.is_accepted
    assert verdict.reason == "its outputs are up to 3 int8 steps from the processor's; at most 2 are allowed"


@pytest.mark.parametrize("latency_s", [19.5e-6, 20e-6, 400e-6])
def test_a_delegate_that_saves_no_time_is_refused(latency_s: float) -> None:
    clock = FakeClock()
    verdict = trial(FakeModel(clock, latency_s), clock)
    assert not verdict.is_accepted
    assert verdict.reason.startswith("it is not faster: ")


def test_a_compiled_model_with_other_outputs_is_refused() -> None:
    clock = FakeClock()
    assert "gives (5,) outputs" in trial(FakeModel(clock, 1e-6, outputs=5), clock).reason


@pytest.mark.parametrize("error", [DelegateError("no such\nlibrary"), ExecutionError("driver gone")])
def test_a_delegate_that_fails_gives_its_reason_in_one_line(error: Exception) -> None:
    verdict = trial(error, FakeClock())
    assert not verdict.is_accepted
    assert verdict.reason == " ".join(str(error).split())


@pytest.mark.parametrize("delegate", [Delegate.CPU, Delegate.XNNPACK])
def test_the_processor_runs_a_model_with_and_without_xnnpack_alike(delegate: Delegate) -> None:
    content = int8_bytes("autoencoder")
    ours, default = open_with_delegate(content, "dense-autoencoder", delegate), Int8Model(content)
    for x in windows("autoencoder", 20):
        assert np.abs(ours.infer_int8(x).astype(int) - default.infer_int8(x)).max() <= 1


def test_a_real_library_that_takes_nothing_over_runs_the_model(tmp_path: Path) -> None:
    content, library = int8_bytes("autoencoder"), build(tmp_path, "idle")
    model = open_with_delegate(content, "dense-autoencoder", Delegate.GPU, library)
    assert golden().check(model) <= 1


# LiteRT's half-made delegate object complains when it is collected; the agent's child ends before.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: build(folder, "absent"), "no device on the bus"),
        (lambda folder: folder / "missing.so", "missing.so cannot be used"),
        (lambda folder: folder.joinpath("text.so"), "text.so cannot be used"),
    ],
)
def test_a_library_that_cannot_be_used_is_a_delegate_error_with_its_reason(tmp_path, make, words) -> None:
    tmp_path.joinpath("text.so").write_text("no library")
    with pytest.raises(DelegateError, match=words):
        open_with_delegate(int8_bytes("autoencoder"), "dense-autoencoder", Delegate.GPU, make(tmp_path))


def test_without_a_library_the_error_says_what_was_looked_for() -> None:
    with pytest.raises(DelegateError, match=r"looked for libedgetpu.so.1 or libedgetpu.so"):
        open_with_delegate(b"", "dense-autoencoder", Delegate.EDGETPU)


def test_libraries_are_found_by_name_in_the_first_folder_that_has_one(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    for folder in (first, second):
        folder.mkdir()
    assert find_library(Delegate.EDGETPU, (first, second)) is None
    (second / "libedgetpu.so.1").touch()
    assert find_library(Delegate.EDGETPU, (first, second)) == second / "libedgetpu.so.1"
    assert find_library(Delegate.XNNPACK, (first, second)) is None
