"""The laboratory behind `benchmarks/drift.py`: worlds that change, detectors beside ours, their calibration, figures.

Nothing of it ships. Start with `benchmarks.drift_lab.worlds`.
"""
