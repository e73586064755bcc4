"""The LiteRT adapter: the one module that knows where the interpreter comes from, how it is started, and how it fails.

LiteRT follows offsets in the model's bytes without checking each: damaged bytes can crash the process. So the seal
behind the model is checked before LiteRT sees it (`models.seal`); against a forger, a bundle's signature is verified
before that. `models.int8_model` detects with what is loaded here, `models.training_model` learns; what LiteRT raises
reaches neither.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from models.errors import DelegateError, ExecutionError, ModelFormatError
from models.native_noise import silent_stderr
from models.seal import check_seal

if TYPE_CHECKING:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType, load_delegate
else:
    try:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType, load_delegate
    except ImportError:  # Coral and older Jetson images carry the runtime under its former name.
        from tflite_runtime.interpreter import Interpreter, OpResolverType, load_delegate

__all__ = [
    "MAX_MODEL_BYTES",
    "VERIFIES_MODELS",
    "Execution",
    "Interpreter",
    "LoadedModel",
    "load_model",
    "open_delegate",
]

MAX_MODEL_BYTES: Final = 32 * 1024 * 1024
"""Largest .tflite that is loaded: twice the training model of the largest architecture."""

VERIFIES_MODELS: Final = not Interpreter.__module__.startswith("tflite_runtime")
"""Does the runtime look through a flatbuffer before it runs it? tflite-runtime 2.14 does not: half a file crashes it."""

_MIN_MODEL_BYTES: Final = 64
_IDENTIFIER: Final = b"TFL3"


@dataclass(frozen=True, kw_only=True)
class Execution:
    """What runs the operations: a delegate from `open_delegate`, and beneath it XNNPACK or LiteRT's plain kernels."""

    delegate: Any = None
    uses_xnnpack: bool = True


class LoadedModel:
    """A model that is ready to run on one thread.

    Args:
        interpreter: LiteRT's, with its tensors allocated.
        what: names the model in errors.
    """

    def __init__(self, interpreter: Any, what: str) -> None:
        self.interpreter: Final = interpreter
        self._what = what
        self._runners: dict[str, Any] = {}

    @property
    def signatures(self) -> dict[str, set[str]]:
        """The names of each signature's inputs."""
        return {name: set(found["inputs"]) for name, found in self.interpreter.get_signature_list().items()}

    def call(self, signature: str, **inputs: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """The outputs of a signature by name; raises ExecutionError where LiteRT cannot run it."""
        try:
            runner = self._runners.get(signature)
            if runner is None:
                runner = self._runners[signature] = self.interpreter.get_signature_runner(signature)
            outputs: dict[str, NDArray[np.float32]] = runner(**inputs)
        except (ValueError, RuntimeError) as error:
            raise self._failure(f"{signature!r} of the {self._what}", error) from None
        return outputs

    def run_row(self, source: int, row: NDArray[np.int8], target: int) -> NDArray[np.int8]:
        """What tensor `target` holds, a new array, once the tensor `source` holds `row`; raises ExecutionError."""
        interpreter = self.interpreter
        try:
            interpreter.set_tensor(source, row)
            interpreter.invoke()
            found: NDArray[np.int8] = interpreter.get_tensor(target)
        except (ValueError, RuntimeError) as error:
            raise self._failure(f"the {self._what}", error) from None
        return found

    def _failure(self, doing: str, error: Exception) -> ExecutionError:
        return ExecutionError(f"LiteRT cannot run {doing}: {_one_line(error)}")


def open_delegate(library: Path) -> Any:
    """A delegate from its shared library; what it is can only be told by running a model on it.

    Raises:
        DelegateError: no such file, no library for this machine, no delegate in it, or its hardware is not there.
    """
    if not library.exists():
        raise DelegateError(f"the delegate library {library} cannot be used: there is no such file")
    try:
        with silent_stderr():
            return load_delegate(str(library))
    except (OSError, ValueError, RuntimeError, AttributeError) as error:
        raise DelegateError(f"the delegate library {library} cannot be used: {_one_line(error)}") from None


def load_model(content: bytes, what: str, execution: Execution | None = None) -> LoadedModel:
    """A model on one thread; `what` names it in errors.

    `execution` is by default the processor through XNNPACK, which is LiteRT's own default.

    Raises:
        ModelFormatError: no TFLite model, a broken seal, one that LiteRT refuses, or no seal under tflite-runtime.
    """
    if content[4:8] != _IDENTIFIER:
        raise ModelFormatError(
            f"the {what} is not a TFLite flatbuffer: bytes 4 to 8 are {content[4:8]!r}, expected {_IDENTIFIER!r}"
        )
    if not _MIN_MODEL_BYTES <= len(content) <= MAX_MODEL_BYTES:
        raise ModelFormatError(
            f"the {what} has {len(content)} bytes; expected {_MIN_MODEL_BYTES} to {MAX_MODEL_BYTES}"
        )
    check_seal(content, what, is_required=not VERIFIES_MODELS)
    options: dict[str, Any] = {}
    if execution is not None and execution.delegate is not None:
        options["experimental_delegates"] = [execution.delegate]
    if execution is not None and not execution.uses_xnnpack:
        options["experimental_op_resolver_type"] = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    try:
        with silent_stderr():
            interpreter = Interpreter(model_content=content, num_threads=1, **options)
            interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise ModelFormatError(
            f"LiteRT cannot load the {what} of {len(content)} bytes: {_one_line(error)}"
        ) from None
    return LoadedModel(interpreter, what)


def _one_line(error: Exception) -> str:
    """A runtime's message without its line breaks, at most 300 characters."""
    return " ".join(str(error).split())[:300]
