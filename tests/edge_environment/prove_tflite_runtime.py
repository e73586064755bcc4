"""Proves that the models run where LiteRT has its former name: tflite-runtime 2.14, the last one, which needs numpy < 2.

    python tests/edge_environment/prove_tflite_runtime.py [--fresh]

Older Coral and Jetson images carry it. The environment lies in ``.venv-tflite-runtime`` and holds the edge extra with
tflite-runtime in place of ai-edge-litert. The same ``.tflite`` files as everywhere must load, give the oracle's numbers and
those that ai-edge-litert gives here. tflite-runtime 2.14 has wheels for Python 3.11 and older. Exit code 0 means proved.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from comparison_run import RESULTS, compare_with_this_environment
from edge_packages import (
    CONSTRAINTS,
    FLOWER,
    ROOT,
    TEST_TOOLS,
    edge_requirements,
    edge_tests,
    fingerprint,
    last_words,
)
from virtual_environment import VirtualEnvironment

RUNTIME: Final = ("tflite-runtime==2.14.0", "numpy>=1.26,<2")
REPLACED: Final = ("ai-edge-litert", "numpy")
"""What the edge extra and constraints.txt say of these two does not hold here."""
SELECTED: Final = ("models/test_*.py", "edge_agent/test_learner_*.py", "edge_agent/test_agent_pipeline.py")

VERSIONS: Final = """
import importlib.util, numpy, tflite_runtime
if importlib.util.find_spec("ai_edge_litert"):
    raise SystemExit("ai_edge_litert found: nothing would be proved")
print(f"tflite-runtime {tflite_runtime.__version__}, numpy {numpy.__version__}")
"""


def main() -> int:
    """Build, compare with this environment, test; returns the exit code."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--fresh", action="store_true", help="build the environment anew")
    is_fresh = options.parse_args().fresh
    if sys.version_info[:2] != (3, 11):
        say(
            f"not possible here: tflite-runtime 2.14 has wheels for Python 3.11, this is {sys.version.split()[0]}"
        )
        return 2
    started = time.monotonic()
    environment = VirtualEnvironment(ROOT / ".venv-tflite-runtime")
    try:
        environment.build(fingerprint(sys.version, *RUNTIME), install, say, is_fresh=is_fresh)
        say(environment.run("-c", VERSIONS).strip())
        with tempfile.TemporaryDirectory() as folder:

            def compute(target: str) -> str:
                return environment.run(RESULTS, str(Path(folder) / target), folder)

            # Its XNNPACK leaves int8 models to the plain kernels.
            is_proved = compare_with_this_environment(
                Path(folder), {"tflite 2.14": compute}, say, left_out="kernels"
            )
        files = edge_tests(*SELECTED)
        say(f"running the edge tests of {len(files)} files")
        is_proved = environment.test(*files) and is_proved
    except subprocess.CalledProcessError as error:
        say("not proved: " + (last_words([error.stdout, error.stderr]) or str(error)))
        return 1
    say(f"{'proved' if is_proved else 'not proved'} in {time.monotonic() - started:.0f} s")
    return 0 if is_proved else 1


def install(environment: VirtualEnvironment) -> None:
    """The edge extra over the older runtime, the checkout, Flower without its server, and the test tools."""
    lines = without_replaced(CONSTRAINTS.read_text(encoding="utf-8").splitlines())
    requirements = without_replaced(edge_requirements((ROOT / "pyproject.toml").read_text(encoding="utf-8")))
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as constraints:
        constraints.write("\n".join(lines))
        constraints.flush()
        environment.install("-c", constraints.name, *RUNTIME, *requirements, *TEST_TOOLS)
    environment.install("--no-deps", FLOWER, "-e", str(ROOT))


def without_replaced(requirements: list[str]) -> list[str]:
    """Requirements that do not speak of the runtime or of numpy."""
    return [line for line in requirements if not line.lower().startswith(REPLACED)]


def say(line: str) -> None:
    """One line for whoever waits."""
    print(f"prove-tflite-runtime: {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
