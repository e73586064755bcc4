"""What can go wrong when a world is simulated.

::

    SimulationError
    ├── ScenarioError          the scenario file or an option is wrong: the person mends it
    ├── DataError              a recording is missing or not what the scenario needs
    ├── ProcessFailedError     a process of the world did not come up, or kept dying
    └── StoryError             the story did not come to its end in time
"""

from __future__ import annotations

__all__ = [
    "DataError",
    "ProcessFailedError",
    "ScenarioError",
    "SimulationError",
    "StoryError",
]


class SimulationError(Exception):
    """Root of everything a simulation refuses or fails at; its message is one line for the user."""


class ScenarioError(SimulationError):
    """A scenario or an option is wrong; the message names the key, the value and what is valid."""


class DataError(SimulationError):
    """A recording is absent or lacks what the scenario needs."""


class ProcessFailedError(SimulationError):
    """A process of the world did not become ready, or died more often than it may."""


class StoryError(SimulationError):
    """A chapter of the story did not reach its end within its time."""
