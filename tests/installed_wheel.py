"""Fedge as a person has it: the wheel installed into an environment of its own, its commands on the PATH, no checkout anywhere.

What the wheel needs from elsewhere is taken from the environment of the tests, whose own installation of Fedge is not seen. `pip` is
uv's, which leaves that environment alone.
"""

from __future__ import annotations

import os
import site
import subprocess
import sys
from pathlib import Path

from published import Published

__all__ = ["install_wheel"]


def install_wheel(published: Published, folder: Path) -> dict[str, str]:
    """Make the environment in `folder` and return the variables that a shell of a person with nothing else would have."""
    python = folder / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True, capture_output=True)
    (inside,) = (folder / "lib").glob("python3*/site-packages")
    (shared,) = site.getsitepackages()[:1]
    (inside / "shared.pth").write_text(f"{shared}\n")
    uv = Path(sys.executable).with_name("uv")
    subprocess.run(
        [uv, "pip", "install", "--quiet", "--offline", "--no-deps", "--python", python, published.wheel],
        check=True,
        capture_output=True,
    )
    pip = folder / "bin" / "pip"
    pip.write_text(
        "#!/bin/sh\n"
        'verb=$1; shift; words=""; [ "$verb" = install ] && words="--no-deps --reinstall --offline"\n'
        'for word; do [ "$word" = --yes ] || [ "$word" = --upgrade ] || words="$words $word"; done\n'
        f'exec {uv} pip "$verb" --quiet --python {python} $words\n'
    )
    pip.chmod(0o755)
    kept = {name: os.environ[name] for name in ("FEDGE_DATA", "LANG", "TMPDIR") if name in os.environ}
    return kept | {
        "PATH": f"{folder / 'bin'}:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": str(folder),
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "120",
    }
