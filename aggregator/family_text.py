"""``families/NAME.toml`` as ``fedge model from-csv`` writes it: every table with a word on what it does, for a person to keep."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from models.recordings.suggestions import VIBRATION_FROM_HZ, window_for
from protocol.refit_sizes import MOST_MIXED_FEATURES

__all__ = ["family_text", "layers_for"]

_WIDEST: Final = 64
_ACROSS: Final = 88


def layers_for(features: int) -> tuple[int, ...]:
    """Widths of an autoencoder that cannot copy: the narrowest layer has half as many as there are features.

    >>> [layers_for(count) for count in (1, 2, 8, 200)]
    [(1, 1, 1), (2, 1, 2), (8, 6, 4, 6, 8), (200, 64, 32, 64, 200)]
    """
    if features < 4:
        return features, max(features - 1, 1), features
    hidden = min(-(-features * 3 // 4), _WIDEST)
    narrow = min(features // 2, _WIDEST // 2)
    return features, hidden, narrow, hidden, features


def family_text(
    family: str,
    names: Sequence[str],
    *,
    machines: Sequence[str],
    sample_rate_hz: float | None,
    commissioning_rows: int,
    now: float,
) -> str:
    """The text of the file.

    Args:
        family: its name.
        names: the columns of a device's source, in order.
        machines: the recordings it is made for.
        sample_rate_hz: rows a second; from `VIBRATION_FROM_HZ` on they are vibration.
        commissioning_rows: windows that fit a machine's own scale.
        now: Unix seconds.
    """
    is_vibration = sample_rate_hz is not None and sample_rate_hz >= VIBRATION_FROM_HZ
    count = 24 * len(names) if is_vibration else len(names)
    detector = "" if count <= MOST_MIXED_FEATURES else _NETWORK
    text = _TEXT.format(
        family=json.dumps(family),
        title=family,
        day=f"{datetime.fromtimestamp(now, UTC):%Y-%m-%d}",
        machines=_listed(machines),
        features=_vibration(names, sample_rate_hz or 0.0)
        if is_vibration
        else _passthrough(names, sample_rate_hz),
        layers=json.dumps(layers_for(count)),
        commissioning_rows=commissioning_rows,
        detector=detector,
    )
    return "".join(map(_aligned, text.splitlines(keepends=True)))


def _aligned(line: str) -> str:
    """A key's comment begins in one column, where the key is no longer than that."""
    key, is_comment, said = line.partition("  # ")
    return f"{key.rstrip():39} # {said}" if is_comment and key.strip() and not key.startswith(" ") else line


def _passthrough(names: Sequence[str], sample_rate_hz: float | None) -> str:
    rate = f" ({sample_rate_hz:.4g} a second)" if sample_rate_hz else ""
    listed = "".join(f"    {json.dumps(name, ensure_ascii=False)},\n" for name in names)
    return f'kind = "passthrough"                    # each row{rate} is a window: what a device judges at once\nnames = [\n{listed}]\n'


def _vibration(names: Sequence[str], sample_rate_hz: float) -> str:
    return (
        'kind = "vibration"                      # windows of raw samples become 24 features a channel\n'
        f"sample_rate_hz = {sample_rate_hz:.10g}\n"
        f"window_samples = {window_for(sample_rate_hz)}\n"
        f"channels = {len(names)}                            # {_listed(names)}\n"
    )


def _listed(names: Sequence[str]) -> str:
    text = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
    return text if len(text) <= _ACROSS else f"{text[: _ACROSS - 1]}…"


_NETWORK: Final = (
    'detector = "network"                    # too many features for a mixture: the model itself judges\n'
)

_TEXT: Final = """\
# The family "{title}": what its machines' sensors deliver, how version 1 is made of recordings, and how the machines
# learn together from then on. Written by `fedge model from-csv` on {day} for {machines}.
# It is yours: the running aggregator takes a change within seconds; docs/aggregator.md explains every key.
# The next version out of recordings, by what stands here then: fedge model from-csv FILES --family {title} --again
name = {family}                          # also the name of this file
{detector}
[features]                              # what a device's source delivers, by these names
{features}
[model]                                 # an autoencoder: what it cannot reconstruct is unusual
kind = "dense-autoencoder"
layers = {layers}              # begins and ends with the number of features; narrow in the middle: it cannot copy

[first_release]                         # how version 1 is trained, here, out of the recordings
commissioning_rows = {commissioning_rows}                # the first windows of each recording fit that machine's own scale, as on a device
epochs = 400                            # at most: training ends when windows that it never saw are reconstructed no better
batch_size = 16                         # windows a step; the step's length finds itself
seed = 0

[threshold]                             # of the model's score, where it judges; the mixture has a promise instead
quantile = 0.999                        # of healthy scores
margin = 1.1

[training]                              # how devices train, from version 2 on; handed to them as it stands, signed
epochs = 2
batch_size = 32
learning_rate = 0.05

[rounds]
count = 5                               # rounds a training run
deadline_s = 120.0                      # until an answer counts as lost

[cohort]
minimum_devices = 3                     # fewer answers make a round void: nobody's answer is seen alone

[trigger]                               # when a training run starts by itself
drift_share = 0.5                       # half of the family in drift
within_s = 86400.0                      # within a day
cooldown_s = 86400.0                    # and a day of rest after each run

[rollout]                               # how a release that a run has made reaches the devices
require_approval = true                 # no device gets it until a person approves and starts it
groups = [
    {{ name = "canary", percentage = 5, soak_s = 3600 }},
    {{ percentage = 25, soak_s = 3600 }},
    {{ percentage = 100, soak_s = 3600 }},
]
"""
