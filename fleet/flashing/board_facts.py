"""What a running board is, asked in one go, and whether an agent can live there: pure, but for the question itself.

The question is POSIX sh: a board that lacks what is asked for must still be able to answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from fleet.device_bundle.archive import DeviceBundle
from fleet.device_bundle.boards import PYTHONS, Arch
from runtime.errors import SettingsError

__all__ = ["QUESTION", "BoardFacts", "check_board", "clock_words", "read_facts"]

NEEDED_MB: Final = 300
"""The bundle packed and unpacked, and room for what an agent keeps."""
_CLOCK_S: Final = 300.0
_PROGRAM: Final = (
    "import sys, ssl, sqlite3, lzma, ctypes\n"
    "ctypes.CDLL('libc.so.6')\n"
    "try:\n    ctypes.CDLL('libstdc++.so.6')\n    library = 'yes'\nexcept OSError:\n    library = 'no'\n"
    "print(getattr(sys, '_base_executable', sys.executable), library)\n"
)

QUESTION: Final = f"""
export PATH="$PATH:$HOME/.local/bin:/usr/local/bin"
echo "machine $(uname -m)"
echo "home $HOME"
echo "user $(id -un)"
echo "now $(date +%s)"
if [ "$(id -u)" = 0 ]; then echo "rights root"; elif sudo -n true 2>/dev/null; then echo "rights sudo"; else echo "rights none"; fi
[ -d /run/systemd/system ] && echo "systemd yes"
for folder in /opt "$HOME"; do echo "free $folder $(df -Pk "$folder" 2>/dev/null | awk 'NR == 2 {{ print $4 }}')"; done
for folder in /opt/fedge "$HOME/.local/share/fedge/agent"; do
  [ -r "$folder/bundle.sha256" ] && echo "bundle $folder $(cat "$folder/bundle.sha256")"
done
for version in {" ".join(PYTHONS)}; do
  found=$(command -v python$version) && told=$("$found" -c "$1" 2>/dev/null) && echo "python $version $told"
done
command -v python3 >/dev/null && echo "default $(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
exit 0
"""
"""Run as ``sh -c QUESTION sh PROGRAM``."""
PROGRAM: Final = _PROGRAM


@dataclass(frozen=True, kw_only=True)
class BoardFacts:
    """`pythons`: version → (its program, whether libstdc++ is there). `bundles`: folder → hash of what is installed in it."""

    machine: str
    home: str
    user: str
    now: float
    rights: str
    has_systemd: bool
    free_mb: dict[str, float]
    pythons: dict[str, tuple[str, bool]]
    bundles: dict[str, str]
    default_python: str

    @property
    def is_root(self) -> bool:
        """Whether the agent is installed for the whole board."""
        return self.rights in {"root", "sudo"}

    @property
    def agent(self) -> str:
        """Where the bundle goes."""
        return "/opt/fedge" if self.is_root else f"{self.home}/.local/share/fedge/agent"

    @property
    def state(self) -> str:
        """Where devices' folders lie."""
        return "/var/lib/fedge" if self.is_root else f"{self.home}/.local/share/fedge"


def read_facts(answer: str) -> BoardFacts:
    """What the board has answered; raises SettingsError where it is no Linux that answers so."""
    lines = [line.split() for line in answer.splitlines() if line.split()]
    single = {line[0]: line[1] for line in lines if len(line) == 2}
    if missing := [key for key in ("machine", "home", "user", "now", "rights") if key not in single]:
        raise SettingsError(f"the board does not say its {missing[0]}: is it a Linux with a POSIX shell?")
    return BoardFacts(
        machine=single["machine"],
        home=single["home"],
        user=single["user"],
        now=float(single["now"]) if single["now"].isdecimal() else 0.0,
        rights=single["rights"],
        has_systemd=single.get("systemd") == "yes",
        free_mb={
            line[1]: int(line[2]) / 1024
            for line in lines
            if line[0] == "free" and len(line) == 3 and line[2].isdecimal()
        },
        pythons={
            line[1]: (line[2], line[3] == "yes") for line in lines if line[0] == "python" and len(line) == 4
        },
        bundles={line[1]: line[2] for line in lines if line[0] == "bundle" and len(line) == 3},
        default_python=single.get("default", "none"),
    )


def check_board(facts: BoardFacts, bundle: DeviceBundle, place: str) -> str:
    """The board's Python for `bundle`; raises SettingsError, in one line, where the agent cannot live there."""
    made_for = bundle.board
    arch = next((arch for arch in Arch if arch.machine == facts.machine), None)
    if arch is None:
        raise SettingsError(
            f"{place} is {facts.machine}, and an agent runs on aarch64 and x86_64 alone (LiteRT has no other wheels)"
        )
    if not facts.pythons:
        raise SettingsError(
            f"{place} has no Python that an agent runs on ({' or '.join(PYTHONS)}; it has {facts.default_python}): install one,"
            " e.g. uv python install 3.12"
        )
    if arch is not made_for.arch or made_for.python not in facts.pythons:
        python = max(facts.pythons, key=PYTHONS.index)
        raise SettingsError(
            f"{place} is {arch} with Python {' and '.join(facts.pythons)}, and {bundle.path} is for {made_for}: fedge-fleet bundle"
            f" --arch {arch} --python {python} --out agent-{arch}-{python}.tar.xz"
        )
    program, has_library = facts.pythons[made_for.python]
    if not has_library:
        raise SettingsError(
            f"{place} has no libstdc++6, without which numpy does not load: sudo apt-get install libstdc++6"
        )
    folder = "/opt" if facts.is_root else facts.home
    free = facts.free_mb.get(folder, 0.0)
    if free < NEEDED_MB:
        raise SettingsError(f"{place} has {free:.0f} MB free in {folder}; an agent needs {NEEDED_MB} MB")
    return program


def clock_words(facts: BoardFacts, now: float) -> str:
    """What is to be said of the board's clock; empty where it goes right."""
    off_s = facts.now - now
    if abs(off_s) < _CLOCK_S:
        return ""
    size = f"{abs(off_s) / 86400:.0f} days" if abs(off_s) > 2 * 86400 else f"{abs(off_s) / 3600:.1f} hours"
    return f"the board's clock is {size} {'ahead' if off_s > 0 else 'behind'}: it joins and watches all the same; set the clock"
