"""What a reader of recordings asks where a file can be read in two ways: it never picks one of them on its own.

An answer is plain text for a key, as ``--answer KEY=VALUE`` gives it and as a family keeps it beside its specification.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from models.errors import RecordingError
from models.recordings.recording import one_line

__all__ = ["Question", "QuestionsOpen"]


@dataclass(frozen=True, kw_only=True)
class Question:
    """One thing that only a person knows.

    Attributes:
        key: what an answer is filed under, such as ``date_order`` or ``column:anomaly``.
        text: one sentence that shows what was found and why it is in doubt.
        allowed: the answers; one in angle brackets, such as ``<rows a second>``, stands for any value of that sort.
        path: the first file in which it came up.
        line: the line there, counted from 1; None where it is no matter of one line.
    """

    key: str
    text: str
    allowed: tuple[str, ...]
    path: Path
    line: int | None = None

    def __str__(self) -> str:
        """One line: place, question, and how it is answered."""
        place = f"{self.path}:{self.line}" if self.line is not None else str(self.path)
        choices = " or ".join(f"{self.key}={choice}" for choice in self.allowed)
        return one_line(f"{place}: {self.text}; answer {choices}")


class QuestionsOpen(RecordingError):  # noqa: N818 - the questions are open, nobody erred
    """The files can be read in several ways; answer the `questions` and read again."""

    def __init__(self, *questions: Question) -> None:
        super().__init__("; ".join(str(question) for question in questions))
        self.questions = questions
