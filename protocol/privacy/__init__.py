"""Distributed differential privacy: what a device does to its update before it enters a secure sum, and how the sum is read.

Start with `mechanism` (encode, decode); `parameters` holds every derived number; the other modules are its steps.
"""
