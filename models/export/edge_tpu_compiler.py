"""The ``edgetpu_compiler`` step: an int8 model in, the model for a Coral out, with what the compiler said about it.

Coral's compiler is a program for x86-64 Debian that is installed by hand; it is not part of any package of ours. This
module runs it in an empty folder, with a limit on its time, and reads the report it prints. What it made is sealed again,
as its output carries no seal. It was tested with a program that prints what the compiler's documentation and public logs
show, not with the compiler itself.

Source: Coral, "Edge TPU Compiler" (coral.ai/docs/edgetpu/compiler), usage and options ``-s``, ``-o``.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from models.errors import EdgeTpuCompilerError
from models.seal import seal_model

__all__ = ["COMPILER", "CompiledModel", "compile_for_edge_tpu", "read_report"]

COMPILER: Final = "edgetpu_compiler"

TIMEOUT_S: Final = 120.0
"""The compiler takes under a second for our sizes; it has been seen to search for ever on large activations."""

_UNITS: Final = {"B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}


@dataclass(frozen=True, kw_only=True)
class CompiledModel:
    """What the compiler made, and what its report says.

    Attributes:
        content: the sealed ``.tflite`` for the Edge TPU; empty where only a report was read.
        version: of the compiler.
        subgraphs: partitions on the Edge TPU; 1 is wanted.
        operations: of the model.
        processor_operations: those that stay on the processor.
        on_chip_bytes: parameters kept on the chip.
        off_chip_bytes: parameters streamed at every window.
    """

    content: bytes = b""
    version: str
    subgraphs: int
    operations: int
    processor_operations: int
    on_chip_bytes: int
    off_chip_bytes: int

    @property
    def is_whole(self) -> bool:
        """Does the Edge TPU run every operation?"""
        return self.subgraphs == 1 and self.processor_operations == 0


def compile_for_edge_tpu(
    int8_model: bytes, *, compiler: str = COMPILER, timeout_s: float = TIMEOUT_S
) -> CompiledModel:
    """Run the compiler.

    Args:
        int8_model: sealed or not.
        compiler: its program, found on PATH, or a path.
        timeout_s: it is ended after this.

    Raises:
        EdgeTpuCompilerError: it is not installed, refused the model, took too long, or printed what we cannot read.
    """
    program = shutil.which(compiler)
    if program is None:
        raise EdgeTpuCompilerError(
            f"there is no {compiler} on this machine; install Coral's package edgetpu-compiler (x86-64 Debian)"
        )
    with tempfile.TemporaryDirectory(prefix="edgetpu-") as folder:
        Path(folder, "model.tflite").write_bytes(int8_model)
        try:
            ended = subprocess.run(
                [program, "-s", "-o", folder, "model.tflite"],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise EdgeTpuCompilerError(
                f"{compiler} did not end within {timeout_s:g} s and was stopped"
            ) from None
        except OSError as error:
            raise EdgeTpuCompilerError(f"{program} cannot be started: {error}") from None
        said = ended.stdout.decode("utf-8", "replace")
        made = Path(folder, "model_edgetpu.tflite")
        if ended.returncode != 0 or not made.exists():
            raise EdgeTpuCompilerError(
                f"{compiler} refused the model (exit code {ended.returncode}): {_last_lines(said)}"
            )
        report = read_report(said)
        content = seal_model(made.read_bytes())
    return CompiledModel(**{**vars(report), "content": content})


def read_report(text: str) -> CompiledModel:
    """The figures of what the compiler printed, without a model.

    Raises:
        EdgeTpuCompilerError: a figure is missing; the message names it.
    """
    operations = _number(text, "Total number of operations")
    # Printed only where some operation is not mapped.
    unmapped = re.search(r"Number of operations that will run on CPU:\s*(\d+)", text)
    version = re.search(r"Edge TPU Compiler version\s+(\S+)", text)
    return CompiledModel(
        version=version[1] if version else "unknown",
        subgraphs=_number(text, "Number of Edge TPU subgraphs"),
        operations=operations,
        processor_operations=int(unmapped[1]) if unmapped else 0,
        on_chip_bytes=_bytes(text, "On-chip memory used for caching model parameters"),
        off_chip_bytes=_bytes(text, "Off-chip memory used for streaming uncached model parameters"),
    )


def _number(text: str, label: str) -> int:
    found = re.search(rf"{label}:\s*(\d+)", text)
    if found is None:
        raise EdgeTpuCompilerError(f"the compiler's report has no line {label!r}: {_last_lines(text)}")
    return int(found[1])


def _bytes(text: str, label: str) -> int:
    found = re.search(rf"{label}:\s*([\d.]+)\s*([KMG]iB|B)\b", text)
    if found is None:
        raise EdgeTpuCompilerError(f"the compiler's report has no line {label!r}: {_last_lines(text)}")
    return round(float(found[1]) * _UNITS[found[2]])


def _last_lines(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " | ".join(lines[-3:])[:300] or "it printed nothing"
