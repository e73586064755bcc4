"""Windows of rows that an instrument gives: none over a gap, none repeated, and secrets from files that nobody else reads."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_agent.errors import SourceError
from edge_agent.source_host import SourceHost, open_for_loop
from edge_agent.sources.live_settings import LineSettings
from edge_agent.sources.sampled import SampledSource, password_in

pytestmark = pytest.mark.edge


class Instrument:
    """Gives these rows in turn; None fails."""

    def __init__(self, *rows: float | None) -> None:
        self.rows, self.closed = list(rows), False

    def read(self) -> NDArray[np.float32]:
        row = self.rows.pop(0)
        if row is None:
            raise SourceError("away")
        return np.array([row], np.float32)

    def close(self) -> None:
        self.closed = True


def source_of(instrument: Instrument, window_rows: int = 1) -> SampledSource:
    return SampledSource(
        ("a",), instrument, every_s=1.0, window_rows=window_rows, where="plc", clock=iter(range(99)).__next__
    )


def test_no_window_holds_rows_from_both_sides_of_a_gap() -> None:
    source = source_of(Instrument(1, None, 2, 3), window_rows=2)
    assert source.next_window(0.0) is None
    with pytest.raises(SourceError, match="away"):
        source.next_window(1.0)
    assert source.next_window(2.0) is None
    window = source.next_window(3.0)
    assert window is not None
    assert window.samples.tolist() == [[2], [3]]
    assert (window.index, window.observed_at_s) == (0, 0.0)


def test_windows_are_counted_without_gaps_and_their_time_never_goes_back() -> None:
    source = source_of(Instrument(1, None, 2, 3))
    seen = []
    for now in (0.0, 1.0, 2.5, 3.5):
        try:
            window = source.next_window(now)
        except SourceError:
            continue
        assert window is not None
        seen.append((window.index, window.observed_at_s))
    assert seen == [(0, 0.0), (1, 2.5), (2, 3.5)]
    assert source.next_window(3.6) is None, "nothing is due"


def test_a_look_shows_what_comes_and_says_why_nothing_does() -> None:
    assert source_of(Instrument(1.5)).look() == "now: a 1.5"
    assert source_of(Instrument(None, math.nan, 2)).look() == "now: a 2"
    with pytest.raises(SourceError, match="away"):
        source_of(Instrument(*[None] * 20)).look(patience_s=2.0)


def test_a_machine_on_a_wire_has_a_thread_of_its_own(tmp_path: Path) -> None:
    settings = LineSettings(input=str(tmp_path / "none"), columns=("a",))
    source = open_for_loop(settings, tmp_path / "source.json", lambda: 0.0, lambda: None)
    assert isinstance(source, SourceHost)
    assert source.spec.names == ("a",)
    source.close()


def test_a_password_is_one_line_of_a_file_that_is_closed_to_others(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("s3cret word\n")
    assert password_in(file) == "s3cret word"
    assert file.stat().st_mode & 0o077 == 0
    assert password_in(None) is None
    for content in (b"", b"a\nb\n", b"\xff\xfe"):
        file.write_bytes(content)
        with pytest.raises(SourceError, match="password_file"):
            password_in(file)
