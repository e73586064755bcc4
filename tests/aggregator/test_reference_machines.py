"""Recordings of reference machines: a device and the trainer see the same columns, and what is left out is said."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aggregator.recordings import ReferenceMachines, read_recordings
from edge_agent.sources.factory import open_source
from edge_agent.sources.settings import ReplaySettings
from models.features import passthrough_spec, raw_spec
from protocol.manifest import FeatureSpec
from runtime.errors import SettingsError

ABC = passthrough_spec(("a", "b", "c"))
RAW = raw_spec(("u", "v"), 4, sample_rate_hz=1.0)
ROWS = np.arange(24, dtype=np.float32).reshape(8, 3)
UNNAMED = "its columns have no names (feature_names) and were taken in the family's order"


def saved(folder: Path, **arrays: object) -> Path:
    np.savez(folder / "x.npz", **arrays)  # type: ignore[arg-type]  # numpy's stub wants named keywords
    return folder / "x.npz"


def read(*paths: Path, features: FeatureSpec = ABC) -> ReferenceMachines:
    return read_recordings(paths, features)


def refusal(path: Path, features: FeatureSpec = ABC) -> str:
    with pytest.raises(SettingsError) as refused:
        read(path, features=features)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_permuted_columns_are_put_in_the_familys_order_by_name(tmp_path: Path) -> None:
    path = saved(tmp_path, m=ROWS[:, [2, 0, 1]], feature_names=np.array(["c", "a", "b"]))
    found = read(path)
    np.testing.assert_array_equal(found.rows["m"], ROWS)
    assert found.notes == ()
    # A device whose columns are named in the family's order sees the same.
    source = open_source(ReplaySettings(path=path, key="m", columns=ABC.names))
    window = source.next_window(0.0)
    assert window is not None
    assert source.spec == ABC
    np.testing.assert_array_equal(window.samples[0], found.rows["m"][0])


def test_a_column_that_is_not_there_is_refused_and_one_too_many_told(tmp_path: Path) -> None:
    said = refusal(saved(tmp_path, m=ROWS, feature_names=np.array(["a", "b", "d"])))
    assert "no column 'c'; there are a, b, d; the family takes a, b, c" in said
    wide = np.column_stack([ROWS, ROWS[:, 0]])
    found = read(saved(tmp_path, m=wide, feature_names=np.array(["a", "b", "c", "noise"])))
    np.testing.assert_array_equal(found.rows["m"], ROWS)
    assert found.notes[0].endswith("columns that are not asked for were left out: noise")


def test_columns_without_names_are_taken_in_the_familys_order_which_is_told(tmp_path: Path) -> None:
    found = read(saved(tmp_path, m=ROWS))
    assert found.notes == (f"recording 'm' in {tmp_path / 'x.npz'}: {UNNAMED}",)
    assert "has 3 columns; the family has 2: u, v" in refusal(
        tmp_path / "x.npz", passthrough_spec(("u", "v"))
    )


def test_a_clock_among_the_columns_that_a_family_takes_is_told(tmp_path: Path) -> None:
    rows = np.column_stack([ROWS[:, :2], 1.7e9 + np.arange(8)])
    assert "column 'c' grows as a clock" in read(saved(tmp_path, m=rows)).notes[-1]


def test_arrays_of_one_axis_are_told(tmp_path: Path) -> None:
    found = read(saved(tmp_path, m=ROWS, rpm=np.ones(8), feature_names=np.array(["a", "b", "c"])))
    assert list(found.rows) == ["m"]
    assert "array 'rpm' has shape (8,) and was left out" in found.notes[0]
    assert "holds no recording" in refusal(saved(tmp_path, rpm=np.ones(8)))


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (ROWS.astype(complex), "complex numbers"),
        (ROWS.astype("M8[s]"), "dates"),
        (ROWS.astype(str), "text"),
        (ROWS.astype(object), "Python objects"),
        (ROWS[:0], "is empty"),
        (ROWS * np.float64(1e300), "is not a finite number"),
        (ROWS.reshape(2, 4, 3), "has shape (2, 4, 3); features of kind 'passthrough' are (rows, columns)"),
    ],
)
def test_what_cannot_be_learned_from_is_refused_by_name(tmp_path: Path, array: np.ndarray, said: str) -> None:
    refused = refusal(saved(tmp_path, m=array))
    assert "'m'" in refused
    assert said in refused


def test_rows_that_miss_a_value_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = ROWS.copy()
    rows[[2, 5], 1] = np.nan
    found = read(saved(tmp_path, m=rows, feature_names=np.array(["a", "b", "c"])))
    np.testing.assert_array_equal(found.rows["m"], ROWS[[0, 1, 3, 4, 6, 7]])
    assert [note.split("x.npz: ")[1] for note in found.notes] == [
        "column 'b' misses 2 of 8 values",
        "2 of 8 rows miss a value and were left out",
    ]
    rows[:5, 0] = np.nan
    assert "a value is missing in 6 of 8 rows (" in refusal(saved(tmp_path, m=rows))


def test_a_csv_is_a_machine_under_its_files_name_and_its_clock_no_column(tmp_path: Path) -> None:
    lines = "".join(f"2026-01-01 10:00:0{n},{c},{a},{b}\n" for n, (a, b, c) in enumerate(ROWS.tolist()))
    (tmp_path / "press-1.csv").write_text("time,c,a,b\n" + lines)
    np.testing.assert_array_equal(read(tmp_path / "press-1.csv").rows["press-1"], ROWS)
    assert "no column 'time of day'" in refusal(tmp_path / "press-1.csv", passthrough_spec(["time of day"]))
    (tmp_path / "press-1.csv").write_text(("time,c,a,b\n" + lines).replace(",", ";"))
    assert "is delimiter = ';' meant?" in refusal(tmp_path / "press-1.csv")
    assert read_recordings([tmp_path / "press-1.csv"], ABC, delimiter=";").rows.keys() == {"press-1"}


def test_recordings_of_several_files_come_together_but_no_machine_twice(tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("a,b,c\n1,2,3\n")
    one = saved(tmp_path, m=ROWS, n=ROWS)
    assert read(one, tmp_path / "other.csv").rows.keys() == {"m", "n", "other"}
    with pytest.raises(SettingsError, match=r"'m'.*given once"):
        read(one, one)
    assert "recordings are .npz files" in refusal(tmp_path / "x.parquet")


def test_raw_windows_are_given_whole_or_cut_as_a_device_cuts_them(tmp_path: Path) -> None:
    samples = np.arange(18, dtype=np.float32).reshape(9, 2)
    cut = read(saved(tmp_path, m=samples, feature_names=np.array(RAW.names)), features=RAW).rows["m"]
    source = open_source(
        ReplaySettings(path=tmp_path / "x.npz", key="m", window_rows=4, row_every_s=1.0, loop=False)
    )
    assert source.spec == RAW
    windows = [source.next_window(1000.0 * n) for n in range(3)]
    np.testing.assert_array_equal(cut, [w.samples.reshape(-1) for w in windows if w is not None])
    whole = read(saved(tmp_path, m=samples[:8].reshape(2, 4, 2)), features=RAW).rows["m"]
    np.testing.assert_array_equal(whole, cut)


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ((2, 3, 2), "has windows of 3 samples; the family's have 4"),
        ((2, 2, 4), "has 4 columns; the family has 2"),
        ((2, 8), "has 8 columns; the family has 2"),
        ((3, 2), "has 3 rows; a window has 4"),
    ],
)
def test_windows_of_another_shape_are_refused(tmp_path: Path, shape: tuple[int, ...], said: str) -> None:
    assert re.search(
        rf"recording 'm' in .*{re.escape(said)}", refusal(saved(tmp_path, m=np.ones(shape)), RAW)
    )


@given(content=st.binary(max_size=120), suffix=st.sampled_from([".csv", ".npz"]))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_machines_or_are_refused_in_one_line(
    tmp_path: Path, content: bytes, suffix: str
) -> None:
    (tmp_path / f"x{suffix}").write_bytes(content)
    said = ""
    try:
        found = read(tmp_path / f"x{suffix}", features=passthrough_spec(["a"]))
    except SettingsError as error:
        said = str(error)
    else:
        assert all(np.isfinite(rows).all() and rows.ndim == 2 for rows in found.rows.values())
    assert "\n" not in said
