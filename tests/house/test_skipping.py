"""What a missing part does to a test: elsewhere it is skipped with its reason, in CI it fails; recordings alone may be missing."""

from __future__ import annotations

from pathlib import Path

import pytest
import recordings

pytest_plugins = "pytester"
TESTS = Path(__file__).parents[1]


def outcomes(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, ci: str) -> dict[str, int]:
    monkeypatch.setenv("CI", ci)
    monkeypatch.setattr(recordings, "DATA", pytester.path)
    pytester.makeconftest((TESTS / "conftest.py").read_text())
    pytester.makepyfile(
        test_parts="""
        import pytest
        from recordings import needs

        @pytest.mark.skipif(True, reason="no such program")
        def test_of_a_program(): ...

        def test_that_finds_out_later():
            pytest.skip("no such program")

        @needs("nowhere")
        def test_of_a_recording():
            assert False

        @pytest.mark.xfail
        def test_that_is_known_to_fail():
            assert False
        """,
        test_module="""
        import pytest
        pytest.importorskip("no_such_package")
        """,
    )
    pytester.makeini("[pytest]\nmarkers = recordings: of this test\n")
    return pytester.runpytest_inprocess("-p", "no:cacheprovider").parseoutcomes()


def test_elsewhere_what_is_missing_is_skipped(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert outcomes(pytester, monkeypatch, "") == {"skipped": 4, "xfailed": 1}


def test_in_ci_only_recordings_may_be_missing(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = outcomes(pytester, monkeypatch, "1")
    assert found == {"errors": 1}, "a file that skips itself stops the session"
    (pytester.path / "test_module.py").unlink()
    found = pytester.runpytest_inprocess("-p", "no:cacheprovider").parseoutcomes()
    assert found == {"errors": 1, "failed": 1, "skipped": 1, "xfailed": 1}
