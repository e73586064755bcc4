"""Carries what the fleet knows to what people already run; each a process of its own, off unless somebody starts it.

::

    fleet's API ─(viewer's token)─► `loop` ─► a `Bridge`: `kafka` (events), `mlflow` (runs, models, aliases)
                                      └ the place up to which all is delivered, on disk (`place`)

A bridge reads; it approves, starts and changes nothing. Where the other side is away the fleet notices nothing: the bridge waits,
and goes on where it was.
"""
