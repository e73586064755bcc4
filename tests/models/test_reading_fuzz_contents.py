"""Tables put together at random from what columns and machines there may be: what is read is what was written, or it is asked or refused."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ugly_world import START, Case, Truth, outcome, text

pytestmark = pytest.mark.edge

NAMES = ["temp", "Druck", "vib_rms", "flow", "p1", "speed", "f_out", "torque [Nm]", "level%", "x"]


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What one file holds: machines by a column, in blocks or in turns; a table wide or long; columns that are no sensors."""

    machines: int
    in_turns: bool
    is_long: bool
    sensors: int
    scales: tuple[int, ...]
    decimals: tuple[int, ...]
    signs: tuple[bool, ...]
    extras: frozenset[str]
    time: str
    step_s: float
    delimiter: str
    numbered: bool
    rows: int
    shuffled: bool
    seed: int


CONTENTS = st.builds(
    Contents,
    machines=st.integers(1, 4),
    in_turns=st.booleans(),
    is_long=st.sampled_from([False, False, True]),
    sensors=st.integers(1, 5),
    scales=st.tuples(*[st.integers(-3, 6)] * 5),
    decimals=st.tuples(*[st.integers(0, 5)] * 5),
    signs=st.tuples(*[st.booleans()] * 5),
    extras=st.frozensets(
        st.sampled_from(["index", "flag", "mode", "label", "constant", "dead", "remark", "rul"])
    ),
    time=st.sampled_from(["iso", "epoch", "millis", "split", "relative_s", "zone", "none"]),
    step_s=st.sampled_from([0.5, 1.0, 10.0, 3600.0]),
    delimiter=st.sampled_from([",", ";", "\t"]),
    numbered=st.booleans(),
    rows=st.integers(20, 60),
    shuffled=st.booleans(),
    seed=st.integers(0, 1 << 30),
)


def written(c: Contents, folder: Path) -> Case:
    rng = np.random.default_rng(c.seed)
    names = NAMES[: c.sensors]
    machines = [str(k + 1) if c.numbered else f"unit-{k + 1}" for k in range(c.machines)]
    tables, labels = {}, {}
    for machine in machines:
        columns = []
        for scale, decimals, has_sign in zip(c.scales[: c.sensors], c.decimals, c.signs, strict=False):
            values = rng.normal(0.0 if has_sign else 5.0, 1.0, c.rows) * 10.0**scale
            columns.append([f"{v:.{decimals}f}" for v in values])
        tables[machine] = np.array(columns).T
        labels[machine] = (np.arange(c.rows) > c.rows * 0.7).astype(int)
    steps = np.arange(c.rows)
    when = np.datetime64(START.replace(tzinfo=None), "ms") + (steps * c.step_s * 1000).astype(
        "timedelta64[ms]"
    )
    seconds = START.timestamp() + steps * c.step_s
    iso = [str(x).replace("T", " ") for x in np.datetime_as_string(when, "ms")]
    stamps = {
        "iso": [[x] for x in iso],
        "zone": [[x.replace(" ", "T") + "+00:00"] for x in iso],
        "epoch": [[f"{x:.1f}"] for x in seconds],
        "millis": [[str(int(x * 1000))] for x in seconds],
        "split": [x.split(" ") for x in iso],
        "relative_s": [[f"{x:.1f}"] for x in steps * c.step_s],
        "none": [[] for _ in steps],
    }[c.time]
    head = {"split": ["date", "time"], "relative_s": ["elapsed_s"], "none": []}.get(c.time, ["timestamp"])
    with_machines = c.machines > 1
    order = (
        [(m, k) for k in range(c.rows) for m in machines]
        if c.in_turns
        else [(m, k) for m in machines for k in range(c.rows)]
    )
    is_long = c.is_long and c.time != "none"
    lines = []
    for n, (machine, k) in enumerate(order):
        row = [*stamps[k], *([machine] if with_machines else [])]
        if is_long:
            lines += [[*row, name, cell] for name, cell in zip(names, tables[machine][k], strict=True)]
            continue
        row += tables[machine][k].tolist()
        extras = {
            "index": str(n),
            "flag": str(rng.choice(["ON", "OFF"])),
            "mode": str(rng.choice(["auto", "manual", "idle"])),
            "label": str(labels[machine][k]),
            "constant": "42",
            "dead": "",
            "remark": "all well" if k == 3 else "",
            "rul": str(c.rows - k),
        }
        lines.append([*row, *(extras[name] for name in sorted(c.extras))])
    head = [
        *head,
        *(["machine"] if with_machines else []),
        *(["variable", "value"] if is_long else [*names, *sorted(c.extras)]),
    ]
    sensors = list(names)
    rows = {m: t.astype(float) for m, t in tables.items()}
    if not is_long:
        for name in sorted(c.extras & {"flag", "constant"}):
            sensors.append(name)
            at = head.index(name)
            for m in machines:
                column = [line[at] for line, (machine, _) in zip(lines, order, strict=True) if machine == m]
                values = [{"ON": 1.0, "OFF": 0.0}.get(cell, 42.0) for cell in column]
                rows[m] = np.column_stack([rows[m], values])
    if c.shuffled and not is_long:
        turn = rng.permutation(len(head)).tolist()
        head, lines = [head[k] for k in turn], [[line[k] for k in turn] for line in lines]
        places = {name: k for k, name in enumerate(head)}
        new = sorted(sensors, key=lambda name: places[name])
        rows = {m: t[:, [sensors.index(name) for name in new]] for m, t in rows.items()}
        sensors = new
    timed = (
        None
        if c.time == "none"
        else dict.fromkeys(machines, steps * c.step_s if c.time == "relative_s" else seconds)
    )
    named = dict(zip(machines, machines, strict=True)) if with_machines else {machines[0]: "x"}
    truth = Truth(
        sensors=sensors,
        machines={named[m]: t for m, t in rows.items()},
        times=None if timed is None else {named[m]: t for m, t in timed.items()},
        labels={named[m]: y for m, y in labels.items()} if "label" in c.extras and not is_long else None,
        rate=None if c.time == "none" else 1 / c.step_s,
    )
    path = text(folder, [c.delimiter.join(line) for line in [head, *lines]])
    return Case(path=path, must="", truth=truth, given={"sample_rate": "none"} if c.time == "none" else {})


def check(contents: Contents, folder: Path) -> None:
    found = outcome(written(contents, folder))
    assert not found.startswith("misread"), found


@settings(max_examples=40, deadline=None)
@given(contents=CONTENTS)
def test_no_mixture_of_columns_and_machines_is_misread(
    contents: Contents, tmp_path_factory: pytest.TempPathFactory
) -> None:
    check(contents, tmp_path_factory.mktemp("contents"))


@pytest.mark.long
@settings(max_examples=3000, deadline=None)
@given(contents=CONTENTS)
def test_no_mixture_of_columns_and_machines_is_misread_however_many(
    contents: Contents, tmp_path_factory: pytest.TempPathFactory
) -> None:
    check(contents, tmp_path_factory.mktemp("contents"))
