"""Whether a release does harm, judged by what its devices show: statistics that may be looked at again and again.

Pure: arrays and a plan in, an answer with an interval and a reason out. Where the figures come from is
`fleet.rollouts`' question; nothing here reads a database or a clock.
"""
