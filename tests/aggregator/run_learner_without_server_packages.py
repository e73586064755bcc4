"""Starts the learner in an interpreter that has none of Flower's server dependencies, like a device."""

import runpy
import sys

ABSENT = {
    "sqlalchemy",
    "fastapi",
    "pydantic",
    "starlette",
    "uvicorn",
    "alembic",
    "uv",
    "tensorflow",
    "torch",
    "scipy",
}


class _Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r} (a device does not have it)", name=name)


sys.meta_path.insert(0, _Absent())
sys.path.pop(0)  # this file's own directory is no part of a device
runpy.run_module("edge_agent.learner", run_name="__main__", alter_sys=True)
