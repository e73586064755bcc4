"""Where windows come from: recordings, a simulated machine, or your own sensor.

Read `port` first (what a source is), then `settings` and `factory`. README.md tells how to plug in a real sensor.
"""
