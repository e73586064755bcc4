"""A text file as whole lines in UTF-8 that end in LF, whatever bytes it was saved in.

::

    bytes ─► encoding (byte-order mark, UTF-16 without one, UTF-8, else Windows-1252) ─► CR, CRLF ─► LF ─► blocks of whole lines

Nothing is replaced on the way but typographic spaces and minus signs, which spreadsheets put into numbers.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from models.errors import RecordingError
from models.recordings.files import foreign_format, open_recording
from models.recordings.questions import Question, QuestionsOpen
from models.recordings.translations import Translation, translation_of

__all__ = ["TextFile", "opened_text"]

_BLOCK_BYTES: Final = 1 << 17
_LONGEST_LINE: Final = 1 << 20
_LF: Final = b"\n"
_HEAD_LINES: Final = 400
_MOST_SPREAD: Final = 400
_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_ENCODINGS: Final = ("cp1252", "cp1251", "cp1250", "shift_jis", "gb18030", "utf-8")
_SIGNS: Final = (
    (b"\xc2\xa0", b" "),
    (b"\xe2\x80\xaf", b" "),
    (b"\xe2\x80\x89", b" "),
    (b"\xe2\x88\x92", b"-"),
    (b"\xe2\x80\x99", b"'"),
    (b"\xef\xbb\xbf", b""),
    (b"\xe2\x80\x8b", b""),
    (b"\x0c", b""),
)
"""No-break spaces, the minus sign, a byte-order mark in mid-file (files put together), form feeds."""
_CONTROLS: Final = re.compile(rb"[\x01-\x08\x0b\x0e-\x19\x1b-\x1e\x7f]")
"""Bytes that no text has, in any encoding that is read."""
_MARKUP: Final = {
    "{": "JSON",
    "[{": "JSON",
    "[[": "JSON",
    "<": "markup (HTML or XML)",
    "@relation": "an ARFF file",
    "%pdf": "a PDF",
    "insert into": "statements of a database",
    "create table": "statements of a database",
    "{\\rtf": "a word processor's text",
}


@dataclass(frozen=True, kw_only=True)
class TextFile:
    """A file that is text.

    Attributes:
        lines: how many end.
        has_end: whether the last one does; where not, it counts as one more.
        head: the first lines.
        spread: some lines of everywhere behind them.
        translation: what makes a table of its lines; None where they are one.
    """

    path: Path
    size: int
    encoding: str
    skip: int
    lines: int = 0
    has_end: bool = True
    head: tuple[str, ...] = ()
    spread: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    translation: Translation | None = None

    def blocks(self) -> Iterator[tuple[int, bytes]]:
        """(number of its first line, whole lines, each with LF); a last line without an end gets one.

        Raises:
            RecordingError: bytes that are no text, or a line without an end in sight.
        """
        written = self._written()
        return written if self.translation is None else self.translation(written)

    def _written(self) -> Iterator[tuple[int, bytes]]:
        decoder = codecs.getincrementaldecoder(self.encoding)()
        is_utf8 = self.encoding == "utf-8"
        line, rest = 1, b""
        with open_recording(self.path) as (file, _):
            file.seek(self.skip)
            left = self.size - self.skip
            while left > 0 and (piece := file.read(min(_BLOCK_BYTES, left))):
                left -= len(piece)
                if not (is_utf8 and not decoder.getstate()[0] and piece.isascii()):
                    piece = decoder.decode(piece, final=left <= 0).encode("utf-8", "surrogatepass")
                piece = rest + piece
                # A CR at the edge of a block may be half of a line's end.
                held = b"\r" if piece.endswith(b"\r") and left > 0 else b""
                piece = piece.removesuffix(held) if held else piece
                piece = _plain(piece)
                cut = piece.rfind(b"\n") + 1
                rest = piece[cut:] + held
                if len(rest) > _LONGEST_LINE:
                    raise RecordingError(
                        f"{self.path}:{line + piece.count(_LF)}: a line of more than {_LONGEST_LINE:,} bytes; is it a text file?"
                    )
                if cut:
                    block = piece[:cut]
                    yield line, block
                    line += block.count(b"\n")
        if rest := _plain(rest):
            yield line, rest if rest.endswith(b"\n") else rest + b"\n"


def opened_text(path: Path, answers: Mapping[str, str]) -> TextFile:
    """Look at every byte of a file once: its encoding, its lines, some of them.

    Raises:
        RecordingError: no text, with what it is and how it becomes a table.
        QuestionsOpen: letters of an alphabet that only a person can name.
    """
    with open_recording(path) as (file, size):
        head = file.read(4096)
        file.seek(max(0, size - 4096))
        tail = file.read(4096)
    mark, encoding = next(((m, e) for m, e in _MARKS if head.startswith(m)), (b"", ""))
    if not mark and (kind := foreign_format(head)):
        raise RecordingError(f"{path} is no text, but {kind}")
    notes: list[str] = []
    control = _CONTROLS.search(head) if not mark and not _wide_without_mark(head) else None
    if control is not None:
        raise RecordingError(
            f"{path}: is no text, but has byte {control[0][0]:#04x} at {control.start()}; export it as CSV"
        )
    if not encoding:
        encoding = _wide_without_mark(head) or answers.get("encoding", "utf-8")
    if encoding in {"utf-8", *_ENCODINGS} and tail.endswith(b"\0"):
        zeros = len(tail) - len(tail.rstrip(b"\0"))
        size -= zeros
        notes.append(f"{zeros} or more NUL bytes at its end, as a power failure leaves them, were left out")
    found = TextFile(path=path, size=size, encoding=encoding, skip=len(mark), notes=tuple(notes))
    try:
        return _looked_at(found)
    except UnicodeDecodeError:
        if encoding != "utf-8":
            raise RecordingError(f"{path}: bytes that are no text in {encoding}; save it as UTF-8") from None
    if "encoding" in answers:
        raise RecordingError(
            f"{path}: bytes that are no text in {encoding}; answer encoding with another, or save it as UTF-8"
        )
    return _in_an_old_encoding(found)


def _in_an_old_encoding(found: TextFile) -> TextFile:
    with open_recording(found.path) as (file, _):
        content = file.read(1 << 16)
    # Western text has a letter with an accent now and then; whole words of such bytes are another alphabet.
    if words := re.findall(rb"[\x80-\xff]{3,}", content):
        raise QuestionsOpen(
            Question(
                key="encoding",
                text=f"it is not in UTF-8, and bytes such as {words[0][:12]!r} may be of several alphabets",
                allowed=_ENCODINGS,
                path=found.path,
                line=content[: content.find(words[0])].count(b"\n") + 1,
            )
        )
    try:
        seen = _looked_at(replace(found, encoding="cp1252"))
    except UnicodeDecodeError:
        seen = _looked_at(replace(found, encoding="latin-1"))
    return replace(
        seen, notes=(*seen.notes, "it is not in UTF-8 and was read as Windows-1252 (Western Europe)")
    )


def _looked_at(found: TextFile) -> TextFile:
    opening = next(found.blocks(), (1, b""))[1]
    if (translation := translation_of(found.path, opening)) is not None:
        found = replace(found, translation=translation, notes=(*found.notes, translation.note))
    head: list[str] = []
    spread: list[str] = []
    lines, last = 0, b""
    for first, block in found.blocks():
        if (at := block.find(b"\0")) >= 0:
            raise RecordingError(
                f"{found.path}:{first + block[:at].count(_LF)}: holds NUL bytes; it is no text, or was cut off by a power failure"
            )
        lines = first + block.count(b"\n") - 1
        last = block
        if len(head) < _HEAD_LINES:
            head += block.decode("utf-8", "replace").split("\n")[:-1][: _HEAD_LINES - len(head)]
        elif len(spread) < _MOST_SPREAD:
            start = block.find(b"\n", len(block) // 2) + 1
            spread += block[start : start + 4096].decode("utf-8", "replace").split("\n")[:3][:-1]
    ending = last.decode("utf-8", "replace").split("\n")[-6:-1] if spread else []
    first_text = next((line.strip() for line in head if line.strip()), "")
    for sign, what in _MARKUP.items():
        if first_text.lower().startswith(sign):
            raise RecordingError(
                f"{found.path}:1: is {what}, no table; export it as CSV with a line for each moment"
            )
    return replace(found, lines=lines, has_end=_ends(found), head=tuple(head), spread=(*spread, *ending))


def _ends(found: TextFile) -> bool:
    with open_recording(found.path) as (file, _):
        file.seek(max(0, found.size - 4))
        tail = file.read(found.size - max(0, found.size - 4))
    return (
        any(end in tail.rstrip(b"\0 \x1a") for end in (b"\n", b"\r"))
        and tail.rstrip(b"\0 \x1a")[-1:] in b"\r\n"
    )


def _wide_without_mark(head: bytes) -> str:
    """UTF-16 whose mark is missing has a NUL at every second byte of its digits."""
    even, odd = head[::2].count(0), head[1::2].count(0)
    if odd > len(head) // 3 and not even:
        return "utf-16-le"
    return "utf-16-be" if even > len(head) // 3 and not odd else ""


def _plain(piece: bytes) -> bytes:
    if b"\r" in piece:
        piece = piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if b"\x1a" in piece:
        piece = piece.replace(b"\x1a", b"")
    if b"\x0c" in piece or not piece.isascii():
        for sign, plain in _SIGNS:
            piece = piece.replace(sign, plain)
    return piece
