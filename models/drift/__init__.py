"""Drift detection on the device: has the machine's world left the one the detector was fitted on?

::

    standardised row ─┬─► EWMA-histogram λ=.01, .002 ─┐
                      ├─► CUSUM of each sensor's mean ─┼─► statistic ÷ threshold ─► DriftVerdict
                      ├─► stuck and range checks ──────┤       (multiplicity-corrected, hysteresis)
    anomaly score ────┴─► CUSUM of log score ──────────┘

Start with `models.drift.monitor`; the detectors are pure state machines over NumPy arrays, one row of state a sensor.
"""
