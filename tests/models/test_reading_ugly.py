"""Each kind of ugly file is understood as it is written, asked about, or refused with the file and the remedy; none is misread silently."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ugly_files import KINDS, answered, outcome

pytestmark = pytest.mark.edge

SEED = 17


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_is_understood_as_it_is_written_or_asked_about_or_refused(kind: str, tmp_path: Path) -> None:
    case = KINDS[kind](tmp_path, np.random.default_rng(SEED))
    found = outcome(case)
    assert found.partition(":")[0] == case.must, found
    assert case.says in found
    if found.startswith("asked") and case.answers:
        assert answered(case) == "understood"


def test_four_of_five_kinds_that_can_be_read_are_understood_and_seven_of_ten_without_a_question(
    tmp_path: Path,
) -> None:
    """Counted apart: what is understood outright, and what is once its own questions are answered."""
    outright, after_answers, others = 0, 0, []
    for kind, make in KINDS.items():
        (tmp_path / kind).mkdir()
        case = make(tmp_path / kind, np.random.default_rng(SEED + 1))
        if case.truth is None:
            continue
        found = outcome(case).partition(":")[0]
        if found == "understood":
            outright += 1
        elif found == "asked" and case.answers and answered(case) == "understood":
            after_answers += 1
        else:
            others.append((kind, found))
    readable = outright + after_answers + len(others)
    assert not [kind for kind, found in others if found == "misread"]
    assert outright >= 0.7 * readable, (outright, readable)
    assert outright + after_answers >= 0.8 * readable, others


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.sampled_from(sorted(KINDS)), seed=st.integers(0, 1 << 30))
def test_no_numbers_make_a_kind_misread(
    kind: str, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("ugly")
    case = KINDS[kind](folder, np.random.default_rng(seed))
    assert not outcome(case).startswith("misread")
