"""Which windows of a machine are unusual, and how often it may say so: the fleet is the prior, the device the evidence.

::

    rows in own scale ─► context    the hour's course and the regime taken out, if that pays  (.context, .profile, .regimes)
           └───────────┬─► scale      deviations, shrunk towards the fleet's          (models.detection.scale)
                       ├─► spread     correlations and wander, mixed with the fleet's   (.spread)
                       ├─► experts    three ridges in one quadratic form              (.experts)
                       ├─► time       2 of 3 windows, and averages over 4 and 16      (.time_scales)
                       └─► openings   how often it would have opened at each level    (.openings)
                                              │ + the fleet's curve, the operator's budget
                                              ▼
                                      threshold and what it promises                  (.promise)

What a device answers is a sum in each case; `prior` is what becomes of the sums, and travels in a release. `detector`
puts it together on a device. Everything here is NumPy and needs no setting but the budget: what other methods leave to
a setting (how much to trust the fleet, how heavy the tail is) is estimated from how the devices differ.

docs/detection.md tells the method once.
"""
