"""Rollouts: how a release reaches a fleet group by group, and how it is undone by itself when it does harm.

::

    plans, states ◄ targets, counts, limits, evidence (pure rules) ◄ decisions, verbs (pure state machines) ◄ store, engine (disk, time)

Read `decisions.py` first. `docs/fleet.md` draws the state machines.
"""
