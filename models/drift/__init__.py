"""Drift detection on the device: has the machine's world left the one the detector was fitted on?

::

    standardised row ─┬─► normal scores ─► CUSUM charts: mean, spread ─┐
                      ├─► EWMA-histogram λ=.01, .002 ──────────────────┼─► statistic ÷ threshold ─► DriftVerdict
                      ├─► stuck and range checks ──────────────────────┤     (one false alarm in `run_length`
    ln anomaly score ─┴─► CUSUM charts: mean, upwards ─────────────────┘      windows; hysteresis)

    labels (was that alarm true?) ─► Page–Hinkley, ADWIN, the 5 % rule ─► concept drift (`models.drift.labels`)

Start with `models.drift.monitor`; the detectors are pure state machines over NumPy arrays, one row of state a sensor.
"""
