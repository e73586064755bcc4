"""Delegates: running an int8 model elsewhere than on LiteRT's own kernels, and finding out whether that is any good.

A delegate is chosen by name, opened from its library, and believed only after it has answered like the processor and
faster. XNNPACK is LiteRT's own and needs no library; the Edge TPU's and the GPU's libraries belong to the image of the
device. This module starts no process: a library that crashes takes its process with it, so `try_delegate` is called
in a child (`python -m models.delegate_child`).

    library file ── load ──► delegate ── golden windows ──► same int8 outputs? ── clock ──► faster? ──► accepted
                     └─ missing, broken ──────────────────────── no ────────────────── no ──► the reason, in words

Source: LiteRT's external delegate interface, as ``load_delegate`` of its Python package binds it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Final

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from models.architecture import Kind
from models.bundles import GoldenVectors, Int8Inference
from models.errors import DelegateError, ModelError, ModelFormatError
from models.int8_model import Int8Model
from models.litert import Execution, open_delegate

__all__ = [
    "LIBRARY_NAMES",
    "Delegate",
    "DelegateVerdict",
    "find_library",
    "open_with_delegate",
    "try_delegate",
]

_ROUNDS: Final = 60
"""Timed inferences of each side, in turns, after which the median is stable to a few percent."""

_SHARE_FASTER: Final = 0.95
"""A delegate must save a twentieth of the time: less is within what a busy machine does to a clock."""


class Delegate(StrEnum):
    """What runs a model's operations."""

    CPU = "cpu"  # LiteRT's own kernels, without any delegate
    XNNPACK = "xnnpack"  # the processor through XNNPACK, which LiteRT brings
    EDGETPU = "edgetpu"
    GPU = "gpu"


LIBRARY_NAMES: Final = {
    Delegate.EDGETPU: ("libedgetpu.so.1", "libedgetpu.so"),
    Delegate.GPU: ("libtensorflowlite_gpu_delegate.so", "libtensorflowlite_gpu.so"),
}
"""File names of the libraries, as Coral's and LiteRT's own builds call them."""

LIBRARY_FOLDERS: Final = tuple(
    Path(folder)
    for folder in (
        "/usr/lib/aarch64-linux-gnu",
        "/usr/lib/arm-linux-gnueabihf",
        "/usr/lib/x86_64-linux-gnu",
        "/usr/local/lib",
        "/usr/lib",
    )
)
"""Where Debian's packages put libraries. The dynamic loader's own search would start processes to find out."""


class DelegateVerdict(Struct, frozen=True, kw_only=True):
    """Whether a delegate is fit to run this model here; `reason` is one line, times are medians in µs."""

    delegate: Delegate
    is_accepted: bool
    reason: str
    latency_us: float = 0.0
    processor_latency_us: float = 0.0
    worst_steps: int = 0


def find_library(delegate: Delegate, folders: Iterable[Path] = LIBRARY_FOLDERS) -> Path | None:
    """The file of a delegate's library, or None where this device has none."""
    places = [folder / name for folder in folders for name in LIBRARY_NAMES.get(delegate, ())]
    return next((place for place in places if place.exists()), None)


def open_with_delegate(
    content: bytes, kind: Kind, delegate: Delegate, library: Path | None = None
) -> Int8Model:
    """An int8 model on a delegate.

    Raises:
        DelegateError: the library is missing or cannot be loaded.
        ModelFormatError: LiteRT or the delegate refuses the model.
    """
    match delegate:
        case Delegate.CPU:
            return Int8Model(content, kind, Execution(uses_xnnpack=False))
        case Delegate.XNNPACK:
            return Int8Model(content, kind)
        case _:
            if library is None:
                names = " or ".join(LIBRARY_NAMES[delegate])
                raise DelegateError(
                    f"this device has no library for {delegate.value}: looked for {names}; install it, or name it in agent.toml"
                )
            return Int8Model(content, kind, Execution(delegate=open_delegate(library)))


def try_delegate(
    opener: Callable[[bytes, Kind, Delegate], Int8Inference],
    delegate: Delegate,
    *,
    int8_model: bytes,
    compiled_model: bytes,
    kind: Kind,
    golden: GoldenVectors,
    clock: Callable[[], float],
) -> DelegateVerdict:
    """Does this delegate answer as the processor does, and faster?

    Args:
        opener: opens models, as `open_with_delegate` does; the processor's through XNNPACK.
        delegate: the one on trial.
        int8_model: what the processor runs.
        compiled_model: what the delegate runs: the same bytes, or what the Edge TPU compiler made of them.
        kind: of the model.
        golden: its windows are the questions; its tolerance is how many steps the answers may differ.
        clock: seconds, monotonic.

    Returns:
        A verdict with its reason; a delegate that fails is a verdict, too.

    Raises:
        ModelFormatError: the processor itself cannot run the model.
    """
    processor = opener(int8_model, kind, Delegate.XNNPACK)
    windows = [np.array(window, np.float32) for window in golden.inputs]
    try:
        accelerated = opener(compiled_model, kind, delegate)
        worst = _largest_difference(processor, accelerated, windows)
        if worst > golden.tolerance_steps:
            return DelegateVerdict(
                delegate=delegate,
                is_accepted=False,
                reason=f"its outputs are up to {worst} int8 steps from the processor's; at most {golden.tolerance_steps} are allowed",
                worst_steps=worst,
            )
        own_us, processor_us = _median_us((accelerated, processor), windows, clock)
    except ModelError as error:
        return DelegateVerdict(
            delegate=delegate, is_accepted=False, reason=" ".join(str(error).split())[:300]
        )
    is_faster = own_us <= _SHARE_FASTER * processor_us
    comparison = f"{own_us:.1f} µs a window against the processor's {processor_us:.1f} µs"
    return DelegateVerdict(
        delegate=delegate,
        is_accepted=is_faster,
        reason=comparison if is_faster else f"it is not faster: {comparison}",
        latency_us=own_us,
        processor_latency_us=processor_us,
        worst_steps=worst,
    )


def _largest_difference(
    processor: Int8Inference, accelerated: Int8Inference, windows: Sequence[NDArray[np.float32]]
) -> int:
    worst = 0
    for window in windows:
        expected = processor.infer_int8(window).astype(np.int64)
        got = accelerated.infer_int8(window).astype(np.int64)
        if got.shape != expected.shape:
            raise ModelFormatError(
                f"the compiled model gives {got.shape} outputs, the processor's {expected.shape}"
            )
        worst = max(worst, int(np.abs(got - expected).max(initial=0)))
    return worst


def _median_us(
    models: Sequence[Int8Inference], windows: Sequence[NDArray[np.float32]], clock: Callable[[], float]
) -> list[float]:
    times = np.empty((len(models), _ROUNDS))
    for i in range(_ROUNDS):
        for m, model in enumerate(models):
            started = clock()
            model.infer_int8(windows[i % len(windows)])
            times[m, i] = clock() - started
    return [float(t) * 1e6 for t in np.median(times, axis=1)]
