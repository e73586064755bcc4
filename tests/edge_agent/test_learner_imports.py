"""The learner loads on a device: without Flower's server packages, quickly, and without what it does not need yet."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.edge

BLOCKED = "sqlalchemy fastapi pydantic starlette uvicorn alembic uv tensorflow torch scipy ray"
PROGRAM = """
import sys
blocked = set(sys.argv[1].split())
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
"""


def run(program: str, blocked: str = BLOCKED) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM + program, blocked],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )


def test_whole_learner_loads_without_the_packages_of_flowers_server() -> None:
    done = run(
        "import edge_agent.learner.__main__, edge_agent.learner.enrolled_files, edge_agent.learner.participation\n"
        "import edge_agent.learner.client_app, edge_agent.learner.flower_client, edge_agent.learner.local_learner\n"
        "import models.litert\n"
        "app = edge_agent.learner.client_app.client_app(None, grid=None)\n"
        "print(sorted(m for m in sys.modules if m.partition('.')[0] in blocked))"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_the_blocker_of_this_test_really_blocks() -> None:
    assert run("import httpx", blocked="httpx").returncode != 0


def test_a_device_that_is_not_ready_says_so_before_flower_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "agent.toml").write_text(
        'state_dir = "state"\ntenant = "demo"\nfamily = "press"\nhardware = "rpi4"\n'
        '[trust]\nroot = "r"\n[flower]\nca_file = "ca.pem"\n[source]\nkind = "simulated"\n'
    )
    done = run(
        "from edge_agent.learner.__main__ import main\n"
        f"code = main(['--config', {str(tmp_path / 'agent.toml')!r}, '--invitation', {str(tmp_path / 'none.json')!r}])\n"
        "print(code, 'flwr' in sys.modules, 'ai_edge_litert' in sys.modules)"
    )
    assert done.stdout.strip() == "3 False False", done.stderr
    assert "not ready: there is no invitation" in done.stderr


def test_config_with_a_typo_ends_with_one_line_and_code_1(tmp_path: Path) -> None:
    (tmp_path / "agent.toml").write_text('state_dri = "state"\n')
    done = run(
        "from edge_agent.learner.__main__ import main\n"
        f"sys.exit(main(['--config', {str(tmp_path / 'agent.toml')!r}, '--invitation', 'x']))"
    )
    assert done.returncode == 1
    assert "state_dri" in done.stderr
    assert "Traceback" not in done.stderr
