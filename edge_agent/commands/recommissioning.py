"""``fedge-agent recommission``: leaves a word for the agent, whether it runs or not.

A file in the state directory and no signal: it reaches an agent that is down with its next start, and needs no port.
"""

from __future__ import annotations

import msgspec

from edge_agent.detection_memory import RecommissionRequest
from edge_agent.process_sight import ProcessState, sight_from_here
from edge_agent.settings import Settings
from edge_agent.status import read_status
from runtime.durable_files import private_directory, write_durably
from runtime.errors import StorageError

__all__ = ["ask_for_commissioning"]


def ask_for_commissioning(settings: Settings, *, is_afresh: bool) -> str:
    """Ask for it; returns a sentence for who asked.

    Raises:
        StorageError: the state directory cannot be written.
    """
    private_directory(settings.state_dir)
    request = RecommissionRequest(is_afresh=is_afresh)
    write_durably(settings.paths.recommission, msgspec.json.encode(request))
    how = "from these alone" if is_afresh else "pooled with the scale so far"
    try:
        state = sight_from_here(settings).state(read_status(settings.paths.status))
        is_running = state is not ProcessState.GONE
    except StorageError:
        is_running = False
    when = (
        "the agent begins at once" if is_running else "the agent does not run; it begins when it is started"
    )
    return f"asked for a scale of the next {settings.detection.commissioning_windows} windows or more, {how}: {when}"
