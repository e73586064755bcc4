"""Which files of a folder are recordings, and what is said of those that are not: each foreign format with the line that converts it."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from models.errors import RecordingError
from models.recordings.recording import one_line

__all__ = ["FoundFile", "conversion", "found_files"]

_TEXT: Final = frozenset({".csv", ".tsv", ".txt", ".dat", ".data", ".asc", ".log", ".tab", ".prn", ""})
_ARRAYS: Final = frozenset({".npz", ".wav", ".parquet", ".pq"})
_NO_DATA: Final = frozenset(
    [
        ".md",
        ".rst",
        ".html",
        ".htm",
        ".pdf",
        ".png",
        ".jpg",
        ".jpeg",
        ".svg",
        ".py",
        ".ipynb",
        ".toml",
        ".yaml",
        ".yml",
        ".ini",
        ".cfg",
        ".m",
        ".r",
        ".sh",
        ".names",
        ".doc",
        ".docx",
        ".gitignore",
        ".sha256",
        ".lock",
        ".pyc",
        ".css",
        ".js",
        ".bib",
        ".tex",
    ]
)
_SAID: Final = frozenset(
    ["readme", "license", "licence", "changelog", "notice", "authors", "requirements", "contributing"]
)
_PANDAS: Final = "python -c \"import pandas as pd; pd.{call}.to_csv('{stem}.csv', index=False)\""
_CONVERSIONS: Final = {
    ".npy": "python -c \"import numpy as np; np.savez('{stem}.npz', {array}=np.load('{name}'))\"",
    ".h5": _PANDAS.replace("{call}", "read_hdf('{name}')"),
    ".hdf5": _PANDAS.replace("{call}", "read_hdf('{name}')"),
    ".hdf": _PANDAS.replace("{call}", "read_hdf('{name}')"),
    ".nc": "python -c \"import xarray as xr; xr.open_dataset('{name}').to_dataframe().to_csv('{stem}.csv')\"",
    ".tdms": "python -c \"from nptdms import TdmsFile; TdmsFile.read('{name}').as_dataframe(time_index=True).to_csv('{stem}.csv')\"",
    ".mat": "python -c \"import numpy as np, scipy.io as io; m = io.loadmat('{name}'); np.savez('{stem}.npz', **{{k: v for k, v in m.items() if not "
    "k.startswith('_')}})\"",
    ".xlsx": _PANDAS.replace("{call}", "read_excel('{name}')"),
    ".xls": _PANDAS.replace("{call}", "read_excel('{name}')"),
    ".ods": _PANDAS.replace("{call}", "read_excel('{name}')"),
    ".feather": _PANDAS.replace("{call}", "read_feather('{name}')"),
    ".arrow": _PANDAS.replace("{call}", "read_feather('{name}')"),
    ".orc": _PANDAS.replace("{call}", "read_orc('{name}')"),
    ".json": _PANDAS.replace("{call}", "read_json('{name}')"),
    ".xml": _PANDAS.replace("{call}", "read_xml('{name}')"),
    ".sas7bdat": _PANDAS.replace("{call}", "read_sas('{name}')"),
    ".dta": _PANDAS.replace("{call}", "read_stata('{name}')"),
    ".pkl": "python -c \"import pandas as pd; pd.read_pickle('{name}').to_csv('{stem}.csv')\" (only if you trust it: a pickle runs code)",
    ".pickle": "python -c \"import pandas as pd; pd.read_pickle('{name}').to_csv('{stem}.csv')\" (only if you trust it: a pickle runs code)",
    ".gz": "gunzip -k '{name}'",
    ".bz2": "bunzip2 -k '{name}'",
    ".xz": "unxz -k '{name}'",
    ".zst": "unzstd '{name}'",
    ".zip": "unzip '{name}'",
    ".7z": "7z x '{name}'",
    ".tar": "tar xf '{name}'",
    ".tgz": "tar xf '{name}'",
    ".mp3": "ffmpeg -i '{name}' '{stem}.wav'",
    ".flac": "ffmpeg -i '{name}' '{stem}.wav'",
    ".ogg": "ffmpeg -i '{name}' '{stem}.wav'",
    ".bin": "python -c \"import numpy as np; np.savez('{stem}.npz', vibration=np.fromfile('{name}', '<i2'), sample_rate=25600)\" with its own type and rate",
    ".raw": "python -c \"import numpy as np; np.savez('{stem}.npz', vibration=np.fromfile('{name}', '<i2'), sample_rate=25600)\" with its own type and rate",
    ".db": "sqlite3 -header -csv '{name}' 'select * from TABLE' > '{stem}.csv'",
    ".sqlite": "sqlite3 -header -csv '{name}' 'select * from TABLE' > '{stem}.csv'",
    ".arff": "python -c \"import pandas as pd, scipy.io.arff as a; pd.DataFrame(a.loadarff('{name}')[0]).to_csv('{stem}.csv', index=False)\"",
    ".edf": "python -c \"import mne; mne.io.read_raw_edf('{name}').to_data_frame().to_csv('{stem}.csv', index=False)\"",
    ".mf4": "python -c \"from asammdf import MDF; MDF('{name}').export('csv', '{stem}')\"",
}
_MAGIC: Final = (
    (b"\x89HDF", ".h5"),
    (b"PAR1", ".parquet"),
    (b"TDSm", ".tdms"),
    (b"MATLAB", ".mat"),
    (b"\x93NUMPY", ".npy"),
    (b"\x1f\x8b", ".gz"),
    (b"BZh", ".bz2"),
    (b"\xfd7zXZ", ".xz"),
    (b"(\xb5/\xfd", ".zst"),
    (b"\xd0\xcf\x11\xe0", ".xls"),
    (b"SQLite format 3", ".sqlite"),
    (b"RIFF", ".wav"),
    (b"ARROW1", ".feather"),
    (b"\x80\x04", ".pkl"),
    (b"\x80\x05", ".pkl"),
    (b"CDF\x01", ".nc"),
    (b"CDF\x02", ".nc"),
    (b"MDF ", ".mf4"),
)


class FoundFile:
    """A file and the way it is read: "text", or the suffix of a format of arrays.

    `parts` are the names below the folder that was given, `above` the name of that folder where several were.
    """

    def __init__(self, path: Path, parts: tuple[str, ...], above: str, way: str) -> None:
        self.path, self.parts, self.above, self.way = path, parts, above, way
        self.machine = "-".join(parts)

    @property
    def steps(self) -> tuple[str, ...]:
        """All names on the way to the file."""
        return (self.above, *self.parts)


def found_files(paths: Sequence[Path]) -> tuple[list[FoundFile], list[tuple[Path, str]], list[str]]:
    """(recordings, refused files with the reason, notes) of files and folders.

    Raises:
        RecordingError: nothing is there.
    """
    files: list[tuple[Path, tuple[str, ...], str]] = []
    notes: list[str] = []
    for path in paths:
        if path.is_dir():
            try:
                inside = sorted((p for p in path.rglob("*") if p.is_file()), key=_natural)
            except OSError as error:
                raise RecordingError(
                    f"{one_line(str(path))}: cannot be looked into: {error.strerror or error}"
                ) from None
            inside = [
                p
                for p in inside
                if not any(part.startswith((".", "__")) for part in p.relative_to(path).parts)
            ]
            passed = [
                p for p in inside if p.suffix.lower() in _NO_DATA or p.stem.split(".")[0].lower() in _SAID
            ]
            if passed:
                notes.append(
                    f"{path}: {len(passed)} files that hold no data were passed over, such as {passed[0].name}"
                )
            files += [
                (p, p.relative_to(path).with_suffix("").parts, path.name) for p in inside if p not in passed
            ]
        elif path.is_file():
            files.append((path, (path.stem,), path.parent.name))
        elif path.exists():
            raise RecordingError(f"{one_line(str(path))}: is no regular file; give a file or a folder")
        else:
            raise RecordingError(f"{one_line(str(path))}: no such file or folder")
    if not files:
        raise RecordingError(
            f"{', '.join(map(str, paths))}: no recording; give files of .csv, .npz, .wav or .parquet, or a folder of them"
        )
    taken, refused = [], []
    for path, parts, above in files:
        way = _way(path)
        if (command := conversion(path, way)) is not None:
            refused.append((path, f"{path}: is not read; convert it: {command}"))
        else:
            shown_parts = tuple(map(one_line, parts))
            taken.append(FoundFile(path, shown_parts, one_line(above) if len(paths) > 1 else "", way))
    return _told_apart(_without_links(taken, notes)), refused, notes


def _without_links(files: list[FoundFile], notes: list[str]) -> list[FoundFile]:
    """Without the links that lead to another of these files: latest.csv."""
    own = {one.path.resolve() for one in files if not one.path.is_symlink()}
    links = [one for one in files if one.path.is_symlink() and one.path.resolve() in own]
    if links:
        notes.append(f"{len(links)} links to files that are read were passed over, such as {links[0].path}")
    return [one for one in files if one not in links]


def _told_apart(files: list[FoundFile]) -> list[FoundFile]:
    """Files of one name in several places, by the names of those places: as if the folder that holds them all had been given."""
    if twice := [path for path, count in Counter(one.path.resolve() for one in files).items() if count > 1]:
        raise RecordingError(f"{one_line(str(twice[0]))}: is given twice")
    if len({one.machine for one in files}) == len(files):
        return files
    folder = Path(os.path.commonpath([one.path.absolute().parent for one in files]))
    named = ((one, one.path.absolute().relative_to(folder).with_suffix("").parts) for one in files)
    apart = [FoundFile(one.path, tuple(map(one_line, parts)), "", one.way) for one, parts in named]
    seen: dict[str, FoundFile] = {}
    for one in apart:
        other = seen.setdefault(one.machine, one)
        if other.parts != one.parts:
            raise RecordingError(
                f"{one_line(str(one.path))} and {one_line(str(other.path))} would both be the machine {one.machine}: call one otherwise"
            )
    return apart


def conversion(path: Path, way: str) -> str | None:
    """The line that turns a file of a foreign format into one that is read; None where it is read."""
    template = _CONVERSIONS.get(way)
    if template is None:
        return None
    array = "".join(c if c.isalnum() else "_" for c in path.stem)
    return template.format(name=path.name, stem=path.stem, array=array if array.isidentifier() else "machine")


def _way(path: Path) -> str:
    """By its first bytes, then by its suffix."""
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError:
        head = b""
    suffix = path.suffix.lower()
    found = next((way for magic, way in _MAGIC if head.startswith(magic)), "")
    if found:
        return ".parquet" if found == ".pq" else found
    if head.startswith(b"PK\x03\x04"):
        return suffix if suffix in {".npz", ".xlsx", ".ods"} else ".zip"
    if suffix in _ARRAYS:
        return suffix
    if suffix == ".json" and head.lstrip().startswith(b"{") and _holds_lines(path):
        return "text"
    return (
        suffix if suffix in _CONVERSIONS and suffix not in {".bin", ".raw"} | _TEXT else _binary(head, suffix)
    )


def _holds_lines(path: Path) -> bool:
    """Does a file of JSON hold an object in each line, and not one over many?"""
    with path.open("rb") as file:
        lines = file.read(1 << 16).lstrip().split(b"\n")
    return lines[0].rstrip().endswith(b"}") and len(lines) > 1 and lines[1].lstrip().startswith(b"{")


def _binary(head: bytes, suffix: str) -> str:
    is_wide_text = (
        head.startswith((b"\xff\xfe", b"\xfe\xff")) or head[1::2].count(0) * 2 == len(head[1::2]) * 2
    )
    if suffix in {".bin", ".raw"} and (not head.isascii() or b"\0" in head) and not is_wide_text:
        return ".bin"
    return "text"


def _natural(path: Path) -> list[tuple[int, int, str]]:
    """valve2 before valve10."""
    return [(1, int(p), "") if p.isdigit() else (0, 0, p) for p in re.split(r"(\d+)", str(path))]
