"""Which delegate runs a release on this device: tried out in a child process first, and left at the first failure.

agent.toml names a delegate, or says ``auto``: then the Edge TPU and the GPU are considered where their library lies on
this device, otherwise nothing is tried and nothing is spent. Trying takes seconds, so it is done where nobody waits: by the
installer's worker after a release passed its probe, and once at the agent's start.

    wanted ─► library here? ─► child: same outputs? faster? ─► accepted: run on it ──► it fails later ─► processor
                  └─ no            └─ crash, hang, no ─────► processor (XNNPACK), and one line that says why
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_agent.installation.probe import ModelProbe, how_it_ended
from edge_agent.installation.probe_result import ProbeResult
from models.architecture import Kind
from models.bundles import ModelBundle, read_bundle
from models.delegate_child import DelegateQuestion
from models.delegates import LIBRARY_NAMES, Delegate, DelegateVerdict, find_library, open_with_delegate
from models.errors import InputError, ModelError
from models.int8_model import Int8Model, WindowModel
from protocol.bundle import open_listed
from runtime.errors import FedgeError

__all__ = ["ChildTrial", "DelegateChoice", "DelegateTrial", "ProbeWithDelegate"]

log = logging.getLogger(__name__)

Wanted = Literal["auto", "cpu", "xnnpack", "edgetpu", "gpu"]

TRIAL_WALL_S: Final = 20.0
"""An Edge TPU takes about 3 s to load its firmware after power-on; a cold Python on a small board 3 s more."""


class DelegateTrial(Protocol):
    """Tries a delegate where it can do no harm."""

    def run(self, delegate: Delegate, library: Path | None, bundle: ModelBundle) -> DelegateVerdict:
        """Its verdict; a crash or a hang is one, too."""


class ChildTrial:
    """`DelegateTrial` in a child process.

    Args:
        wall_s: a trial that takes longer is ended.
        command: the child.
    """

    def __init__(
        self,
        wall_s: float = TRIAL_WALL_S,
        # -P: the current directory is nobody's place to bring modules along.
        command: tuple[str, ...] = (sys.executable, "-P", "-m", "models.delegate_child"),
    ) -> None:
        self._wall_s = wall_s
        self._command = command

    def run(self, delegate: Delegate, library: Path | None, bundle: ModelBundle) -> DelegateVerdict:
        """See `DelegateTrial.run`."""
        question = DelegateQuestion(
            delegate=delegate,
            library=str(library) if library is not None else None,
            kind=bundle.architecture.kind,
            golden=bundle.golden,
            int8_bytes=len(bundle.int8_model),
            wall_s=math.ceil(self._wall_s) + 5,
        )
        try:
            with tempfile.TemporaryFile() as asked:
                asked.write(msgspec.json.encode(question) + b"\n")
                asked.write(bundle.int8_model + _compiled(delegate, bundle))
                asked.seek(0)
                child = subprocess.run(
                    self._command,
                    stdin=asked,
                    capture_output=True,
                    timeout=self._wall_s,
                    check=False,
                    env={**os.environ, "OMP_NUM_THREADS": "1"},
                    start_new_session=True,
                )
            return msgspec.json.decode(child.stdout, type=DelegateVerdict)
        except subprocess.TimeoutExpired:
            reason = f"it gave no answer within {self._wall_s:g} s"
        except OSError as error:  # a full disk, too: the question is handed over in a file
            reason = f"its trial cannot be started: {error}"
        except msgspec.DecodeError:
            reason = f"it crashed its trial ({how_it_ended(child.returncode)})"
        return DelegateVerdict(delegate=delegate, is_accepted=False, reason=reason)


class DelegateChoice:
    """Remembers, per release, what runs it. `prepare` may be called from the installer's thread, the rest from the loop's.

    Args:
        wanted: from agent.toml.
        library: the delegate's library where it is not in one of Debian's folders.
        trial: how a delegate is tried.
        find: where a delegate's library is.
        opener: makes a model ready on a delegate; raises ModelError.
    """

    def __init__(
        self,
        wanted: Wanted,
        library: Path | None,
        trial: DelegateTrial,
        find: Callable[[Delegate], Path | None] = find_library,
        opener: Callable[[bytes, Kind, Delegate, Path | None], WindowModel] = open_with_delegate,
    ) -> None:
        self._wanted = wanted
        self._library = library
        self._trial = trial
        self._find = find
        self._opener = opener
        # Replaced key by key and never iterated: one writer, one reader, no lock.
        self._accepted: dict[str, tuple[Delegate, Path | None, bytes]] = {}
        self.running = Delegate.XNNPACK.value

    def prepare(self, bundle: ModelBundle) -> None:
        """Try what is wanted on this release; takes seconds where there is something to try."""
        for delegate in self._candidates(bundle):
            library = self._library or self._find(delegate)
            if delegate in LIBRARY_NAMES and library is None:
                if self._wanted != "auto":
                    self._refuse(bundle, delegate, f"no library {' or '.join(LIBRARY_NAMES[delegate])} here")
                continue
            if delegate is Delegate.EDGETPU and bundle.edge_tpu_model is None:
                self._refuse(bundle, delegate, "the release brings no model compiled for it")
                continue
            verdict = self._trial.run(delegate, library, bundle)
            if verdict.is_accepted:
                self._accepted[bundle.sha256] = delegate, library, _compiled(delegate, bundle)
                log.info(
                    "delegate_accepted release=%s delegate=%s %s",
                    bundle.manifest.release,
                    delegate.value,
                    verdict.reason,
                )
                return
            self._refuse(bundle, delegate, verdict.reason)

    def open(self, int8_model: bytes, kind: Kind, bundle_sha256: str) -> WindowModel:
        """The model of a release on what was accepted for it, else on the processor.

        Raises:
            ModelError: the processor cannot run it either.
        """
        if self._wanted == "cpu":
            self.running = Delegate.CPU.value
            return self._opener(int8_model, kind, Delegate.CPU, None)
        processor = Int8Model(int8_model, kind)
        self.running = Delegate.XNNPACK.value
        accepted = self._accepted.get(bundle_sha256)
        if accepted is None:
            return processor
        delegate, library, content = accepted
        try:
            accelerated = self._opener(content, kind, delegate, library)
        except ModelError as error:
            self._fall_back(bundle_sha256, delegate, str(error))
            return processor
        self.running = delegate.value
        return _Guarded(
            accelerated, processor, lambda reason: self._fall_back(bundle_sha256, delegate, reason)
        )

    def _candidates(self, bundle: ModelBundle) -> tuple[Delegate, ...]:
        match self._wanted:
            case "auto":
                # Without a compiled model in the release an Edge TPU has nothing to run: no reason to complain.
                return (Delegate.EDGETPU, Delegate.GPU) if bundle.edge_tpu_model else (Delegate.GPU,)
            case "edgetpu" | "gpu":
                return (Delegate(self._wanted),)
            case _:
                return ()

    def _refuse(self, bundle: ModelBundle, delegate: Delegate, reason: str) -> None:
        log.warning(
            "delegate_refused release=%s delegate=%s reason=%s: the processor runs it",
            bundle.manifest.release,
            delegate.value,
            reason,
        )

    def _fall_back(self, bundle_sha256: str, delegate: Delegate, reason: str) -> None:
        self._accepted.pop(bundle_sha256, None)
        self.running = Delegate.XNNPACK.value
        log.warning("delegate_failed delegate=%s reason=%s: the processor goes on", delegate.value, reason)


class _Guarded:
    """A model on a delegate, and the same on the processor for the moment the delegate fails: it may be unplugged."""

    def __init__(
        self, accelerated: WindowModel, processor: WindowModel, on_failure: Callable[[str], None]
    ) -> None:
        self._model, self._processor = accelerated, processor
        self._on_failure = on_failure

    def infer_and_score(self, x: NDArray[np.floating]) -> tuple[NDArray[np.float32], float]:
        try:
            return self._model.infer_and_score(x)
        except InputError:
            raise  # the window's fault, not the delegate's
        except ModelError as error:
            if self._model is self._processor:
                raise
            self._on_failure(" ".join(str(error).split())[:200])
            self._model = self._processor
            return self._processor.infer_and_score(x)


class ProbeWithDelegate:
    """`ModelProbe` that lets a sound release be tried on the delegate, too, before anyone waits for it.

    Args:
        probe: the probe of the model itself.
        choice: learns what is accepted.
    """

    def __init__(self, probe: ModelProbe, choice: DelegateChoice) -> None:
        self._probe, self._choice = probe, choice

    def run(self, release: str, content: bytes, is_interrupted: Callable[[], bool]) -> ProbeResult | None:
        """See `ModelProbe.run`."""
        result = self._probe.run(release, content, is_interrupted)
        if result is not None:
            try:
                sha256 = hashlib.sha256(content).hexdigest()
                self._choice.prepare(read_bundle(open_listed(content, sha256)))
            except (FedgeError, ModelError, OSError) as error:
                log.warning("delegate_not_tried release=%s error=%s", release, error)
        return result


def _compiled(delegate: Delegate, bundle: ModelBundle) -> bytes:
    is_compiled = delegate is Delegate.EDGETPU and bundle.edge_tpu_model is not None
    return bundle.edge_tpu_model if is_compiled and bundle.edge_tpu_model else bundle.int8_model
