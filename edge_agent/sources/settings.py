"""The `[source]` table of agent.toml: which source, and how it is paced.

The agent's configuration includes `SourceSettings`; `kind` tells them apart. Those of machines on a wire are in `live_settings`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct, field

from edge_agent.sources.live_settings import LiveSettings

__all__ = ["PluginSettings", "ReplaySettings", "Seconds", "SimulatedSettings", "SourceSettings"]

Speed = Annotated[float, Meta(ge=1e-6, le=1e6)]
Seconds = Annotated[float, Meta(gt=0, le=1e9)]
"""Up to some thirty years: with a bound, no sum or quotient of two settings is ever infinite."""
RowRange = Annotated[
    tuple[Annotated[int, Meta(ge=0)], Annotated[int, Meta(ge=1)]], Meta(title="[first, last + 1]")
]


class SimulatedSettings(
    Struct, frozen=True, kw_only=True, tag="simulated", tag_field="kind", forbid_unknown_fields=True
):
    """A simulated rotating machine.

    `speed` is machine seconds per wall second; a snapshot of `window_samples` is taken every `snapshot_every_s`
    machine seconds. `seed` picks the individual.
    """

    seed: Annotated[int, Meta(ge=0)] = 0
    profile: str = "motor-a"
    speed: Speed = 1.0
    snapshot_every_s: Seconds = 10.0
    sample_rate_hz: Annotated[float, Meta(ge=3200)] = 12_800.0
    window_samples: Annotated[int, Meta(ge=256, le=65_536)] = 2048
    control_file: Path | None = None


class ReplaySettings(
    Struct, frozen=True, kw_only=True, tag="replay", tag_field="kind", forbid_unknown_fields=True
):
    """A recording, one window a row of ready features, or `window_rows` rows a raw window.

    `answers` (``KEY = "VALUE"``, as a family keeps them) has the file read as the family's recordings were, whatever its form; `machine` is
    whose rows, where it holds several. Without `answers`: a plain NPZ or CSV. NPZ: `key` names the (rows, features) array. CSV: `delimiter` parts the cells. `columns` picks and orders columns by name (empty:
    all but clocks). `rows` is [first, last + 1]; `row_every_s` is machine time between rows. `raw_bytes_per_row` is
    what the measurement behind a row of ready features weighed, so that bandwidth is counted against what was measured.
    With `window_rows` above 1 the columns are channels, sampled every `row_every_s`; the next window begins `step_rows`
    later (default: behind the last one; fewer overlap). `is_vibration`: they are acceleration, of which features are computed.
    """

    path: Path
    answers: dict[str, str] | None = None
    machine: str | None = None
    key: str | None = None
    columns: tuple[str, ...] = ()
    delimiter: Annotated[str, Meta(min_length=1, max_length=1)] = ","
    rows: RowRange | None = None
    row_every_s: Seconds = 10.0
    raw_bytes_per_row: Annotated[int, Meta(ge=1)] | None = None
    window_rows: Annotated[int, Meta(ge=1, le=65_536)] = 1
    step_rows: Annotated[int, Meta(ge=1)] | None = None
    is_vibration: bool = False
    speed: Speed = 1.0
    loop: bool = True
    control_file: Path | None = None


class PluginSettings(
    Struct, frozen=True, kw_only=True, tag="plugin", tag_field="kind", forbid_unknown_fields=True
):
    """Your own source: `factory` is ``module:function``, called with `speed=` and the `options`.

    A call of it that takes longer than `answers_within_s`, and three times as long as any before, is given up, and the
    source opened anew.
    """

    factory: Annotated[str, Meta(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$(?!\n)")]
    speed: Speed = 1.0
    answers_within_s: Seconds = 60.0
    options: dict[str, bool | int | float | str | list[str | float]] = field(default_factory=dict)

    @property
    def where(self) -> str:
        """The source, for messages."""
        return self.factory


SourceSettings = SimulatedSettings | ReplaySettings | PluginSettings | LiveSettings
