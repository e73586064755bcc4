"""For which boards a device bundle is made: processor and Python, and how others name the two.

armv7 and Python before 3.11 are out: LiteRT, numpy and msgspec have no wheels there.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

__all__ = ["PYTHONS", "Arch", "Board"]

PYTHONS: Final = ("3.11", "3.12", "3.13")


class Arch(StrEnum):
    """A processor, as Debian names it."""

    ARM64 = "arm64"
    AMD64 = "amd64"

    @property
    def machine(self) -> str:
        """As ``uname -m`` and wheels name it."""
        return "aarch64" if self is Arch.ARM64 else "x86_64"

    @property
    def elf_machine(self) -> int:
        """``e_machine`` of its programs (ELF specification, gABI)."""
        return 183 if self is Arch.ARM64 else 62


@dataclass(frozen=True, kw_only=True)
class Board:
    """What a bundle runs on: Linux with glibc 2.28 or later, this processor, this Python."""

    arch: Arch
    python: str

    def __str__(self) -> str:
        """For people."""
        return f"{self.arch} with Python {self.python}"

    @property
    def platforms(self) -> tuple[str, ...]:
        """Tags of the wheels that run there, the best first."""
        tags = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014")
        return tuple(f"{tag}_{self.arch.machine}" for tag in tags)

    @property
    def site(self) -> str:
        """Where packages lie in the tree."""
        return f"lib/python{self.python}/site-packages"

    @property
    def markers(self) -> dict[str, str]:
        """What a requirement may ask of it (PEP 508)."""
        return {
            "python_version": self.python,
            "python_full_version": f"{self.python}.0",
            "implementation_name": "cpython",
            "platform_python_implementation": "CPython",
            "sys_platform": "linux",
            "os_name": "posix",
            "platform_system": "Linux",
            "platform_machine": self.arch.machine,
        }
