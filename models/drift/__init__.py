"""Drift detection on the device: has the machine's world left the one the detector was fitted on?

::

    standardised row ─┬─► normal scores ─► CUSUM charts: mean, spread ─┐
                      ├─► EWMA-histogram of its bins ──────────────────┼─► statistic ÷ threshold ─► DriftVerdict: home,
                      ├─► stuck, missing ──────────────────────────────┤     (one false report in `run_length`
    ln anomaly score ─┴─► CUSUM charts: mean, upwards ─────────────────┘      windows)      drifting, settled elsewhere

    healthy windows ─► reference: bins, memory, repeats ─► replay: does this machine wander, and how far? (`replay`)
    labels (was that alarm true?) ─► one precision, or two? ─► concept drift (`models.drift.labels`)

Start with `models.drift.monitor`; the detectors are pure state machines over NumPy arrays, one row of state a sensor.
"""
