"""A real agent whose source changes its columns over a restart: nothing is judged wrongly, and everybody is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from agent_world import NAMES, health_of_status, healthy, make_bundle, running_agent, write_device
from waiting import wait_until

from edge_agent.commands.application import check_config, recommission
from edge_agent.settings import StatePaths
from edge_agent.status import read_status

pytestmark = pytest.mark.edge
SWAPPED = (NAMES[1], NAMES[0], *NAMES[2:])
UNITS = np.array([1, 1000, 1, 1, 1, 1], np.float32)


def watched(config: Path) -> int:
    return int(health_of_status(config).get("windows", 0))  # type: ignore[call-overload]  # JSON: a number


@pytest.mark.slow
def test_swapped_columns_after_a_restart_are_set_aside_named_and_commissioned_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = healthy(400) * UNITS
    config = write_device(tmp_path, rows=rows, speed=200.0, bundle=make_bundle())
    paths = StatePaths(tmp_path / "state")
    assert check_config(config) == 0
    with running_agent(config):
        wait_until(lambda: watched(config) > 100, "windows that are judged")
    before = read_status(paths.status).health
    assert before.commissioned_share == 1
    order = [1, 0, 2, 3, 4, 5]
    np.savez(tmp_path / "rows.npz", rows=rows[:, order], feature_names=np.array(SWAPPED))
    capsys.readouterr()
    assert check_config(config) == 1
    told = capsys.readouterr().out
    assert "'feature-0', 'feature-1' have moved; the next start sets them aside" in told
    assert "pump/1 was made for other features" in told
    with running_agent(config):
        wait_until(lambda: watched(config) > before.windows + 100, "windows after the swap")
        problems = read_status(paths.status).problems
        assert recommission(config, afresh=True) == 0
        wait_until(lambda: not paths.recommission.exists(), "the agent that meets the wish")
    after = read_status(paths.status).health
    assert after.windows_over_threshold <= before.windows_over_threshold, "a kill may cost the last ones"
    assert any("pump/1 was made for other features" in problem for problem in problems)
    assert (paths.outdated / "1" / "standardiser.json").exists()
    assert "the agent begins at once" in capsys.readouterr().out
    log = (tmp_path / "agent.log").read_text()
    assert "state_outdated" in log
    assert "commissioning_restarted afresh=True" in log
    assert "Traceback" not in log
