"""A recording, played window by window through the agent's own pipeline, in a state directory of its own.

::

    Subject ─► edge_agent.pipeline.Pipeline ─┬─ learning time: it commissions, learns and watches
               (a release, the settings)     └─ held-back time: it goes on, and what it does is noted ─► Played

Nothing of detection is written here: scale, threshold, horizon, learning anew, drift and sight are the code that is deployed. Both of its
clocks are the recording's.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final

import numpy as np

from edge_agent.detection_memory import DetectionMemory
from edge_agent.judgement import Judged
from edge_agent.kept_rows import open_stores
from edge_agent.pipeline import Pipeline
from edge_agent.settings import BufferSettings, DetectionSettings, StatePaths
from edge_agent.sources.port import SourceWindow
from models.bundles import ModelBundle
from models.sensors import SensorView
from protocol.manifest import FeatureSpec
from simulations.study.float_shadow import FloatShadow
from simulations.study.messages import Sent
from simulations.study.notebook import Episode, Notebook, Played
from simulations.study.subjects import Subject

__all__ = ["play"]

TELL_EVERY: Final = 1000
"""Windows between two words of progress."""
PROBES: Final = 200
"""What a device's own sight is a share of."""
NEVER_DUE_S: Final = 3600.0
"""Further apart than probes are on a device: each one that is asked for is made."""


def play(
    subject: Subject,
    bundle: ModelBundle,
    spec: FeatureSpec,
    settings: DetectionSettings,
    *,
    release: str,
    progress: Callable[[int], None] = lambda _windows: None,
) -> Played:
    """Play all of a recording.

    Args:
        subject: the machine.
        bundle: what its agent runs from its first window on.
        spec: what its source delivers.
        settings: of the agent.
        release: what this way of watching is called.
        progress: told how many windows more are done.

    Raises:
        ModelError: the release does not fit the machine.
    """
    now_s = [0.0]
    notes = Notebook(sensors=SensorView(spec), first=subject.learning, held_back=subject.held_back)
    shadow = FloatShadow(bundle, settings)
    took = np.zeros(len(subject.windows), np.float32)
    probe_every, probed, sent = max(subject.held_back // PROBES, 1), 0, Sent(bundle.manifest.release)
    with tempfile.TemporaryDirectory(prefix="fedge-study-") as state:
        paths = StatePaths(Path(state))
        with closing(open_stores(paths, spec, BufferSettings())) as stores:
            pipeline = Pipeline(
                spec,
                settings,
                memory=DetectionMemory(paths, spec),
                stores=stores,
                clock=time.process_time,
                wall=lambda: now_s[0],
            )
            pipeline.adopt(
                bundle.manifest,
                bundle.int8_model,
                bundle_sha256=bundle.sha256,
                is_trial=False,
                prior=bundle.prior,
            )
            for number, (window, at_s) in enumerate(
                zip(subject.windows, subject.times_s.tolist(), strict=True)
            ):
                now_s[0] = at_s
                began = time.perf_counter()
                seen = SourceWindow(samples=np.atleast_2d(window), observed_at_s=at_s, index=number)
                judged = pipeline.observe(seen)
                took[number] = time.perf_counter() - began
                if number % TELL_EVERY == TELL_EVERY - 1:
                    progress(TELL_EVERY)
                if notes.commissioned_after is None and pipeline.is_commissioned:
                    notes.commissioned_after = number + 1
                if not isinstance(judged, Judged):
                    continue
                shadow.note(number, judged, pipeline.normal.judge)
                notes.note(number, judged, pipeline)
                is_held_back = number >= subject.learning
                sent.note(seen, judged, pipeline, is_held_back=is_held_back)
                if is_held_back and number % probe_every == 0:
                    probed += 1
                    pipeline.probe_sight(probed * NEVER_DUE_S)
            notes.end()
            normal, sight, problems = pipeline.normal, pipeline.sight, tuple(pipeline.problems())
    progress(len(subject.windows) % TELL_EVERY)
    held_back = took[subject.learning :]
    return Played(
        machine=subject.name,
        release=release,
        ratios=notes.ratios,
        alarms=tuple(notes.alarms),
        float_alarms=_in_held_back(shadow.episodes(len(subject.windows)), subject),
        drift_reports=tuple(notes.drift_reports),
        away=notes.away,
        worst=tuple(notes.worst),
        sight=sight,
        commissioned_after=notes.commissioned_after,
        promise=normal.promise.promise.text if normal.promise is not None else "",
        learnt_on=normal.threshold.fitted_on if normal.threshold is not None else 0,
        problems=problems,
        window_us=1e6 * float(np.median(held_back)),
        slowest_s=float(took.max()),
        sent_bytes=sent.bytes,
    )


def _in_held_back(episodes: list[tuple[int, int]], subject: Subject) -> tuple[Episode, ...]:
    first = subject.learning
    return tuple(
        Episode(
            first=max(begun - first, 0),
            end=end - first,
            is_old=begun < first,
            is_open=end == len(subject.windows),
        )
        for begun, end in episodes
        if end > first
    )
