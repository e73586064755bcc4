"""What can go wrong when a world is simulated.

::

    SimulationError
    ├── ScenarioError          the scenario file, an option or a recording is wrong: the person mends it
    ├── ProcessFailedError     a process of the world did not come up, or kept dying
    └── StoryError             the story did not come to its end in time
"""

from __future__ import annotations

__all__ = [
    "ProcessFailedError",
    "ScenarioError",
    "SimulationError",
    "StoryError",
]


class SimulationError(Exception):
    """Root of everything a simulation refuses or fails at; its message is one line for the user."""


class ScenarioError(SimulationError):
    """A scenario, an option or a recording is not what is needed; names what, the value and what would be valid."""


class ProcessFailedError(SimulationError):
    """A process of the world did not become ready, or died more often than it may."""


class StoryError(SimulationError):
    """A chapter of the story did not reach its end within its time."""
