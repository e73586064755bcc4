"""What stands where Coral's compiler would: a shell script that prints what the compiler's public logs show."""

from __future__ import annotations

from pathlib import Path

REPORT = """Edge TPU Compiler version 16.0.384591198
Started a compilation timeout timer of 180 seconds.

Model compiled successfully in 41 ms.

Input model: model.tflite
Input size: 4.02KiB
Output model: model_edgetpu.tflite
Output size: 56.00KiB
On-chip memory used for caching model parameters: 6.25KiB
On-chip memory remaining for caching model parameters: 7.88MiB
Off-chip memory used for streaming uncached model parameters: 0.00B
Number of Edge TPU subgraphs: 1
Total number of operations: 4
Operation log: model_edgetpu.log

Operator                       Count      Status

FULLY_CONNECTED                4          Mapped to Edge TPU
Compilation succeeded!
"""


def program(folder: Path, script: str) -> str:
    """An executable that stands where Coral's compiler would."""
    path = folder / "edgetpu_compiler"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)
