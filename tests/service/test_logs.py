"""What a cloud service logs reaches standard error, whichever module says it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

PROGRAM = """
import importlib, json, logging, pkgutil
import structlog
from service.logs import configure_logging
import aggregator, fleet, service
configure_logging(as_json=True)
heard = {}
for package in (service, fleet, aggregator):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if "migrations" in module.name or module.name.endswith("__main__"):
            continue
        if hasattr(importlib.import_module(module.name), "_log"):
            # structlog names a module's logger after the module.
            heard[module.name] = logging.getLogger(module.name).isEnabledFor(logging.INFO)
structlog.get_logger().info("said", what="one")
logging.getLogger("foreign").warning("said too")
print(json.dumps(heard))
"""


@pytest.mark.slow
def test_no_module_keeps_its_events_to_itself_and_all_speak_in_one_form() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    heard = json.loads(done.stdout)
    assert "service.broker_account" in heard
    assert not [module for module, is_heard in heard.items() if not is_heard]
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [(line["event"], line["level"]) for line in lines] == [("said", "info"), ("said too", "warning")]


FORGED = """
import logging, structlog, sys
from service.logs import configure_logging
configure_logging(as_json=sys.argv[1] == "json")
evil = "run-1\\n2026-01-01 [info     ] run_completed\\r\\x1b[2K\\u2028x"
structlog.get_logger().info("run_started", run_id=evil, reason=evil)
logging.getLogger("foreign").warning("run %s", evil)
"""


@pytest.mark.parametrize("form", ["json", "plain"])
def test_a_name_with_line_breaks_in_it_forges_no_line(form: str) -> None:
    done = subprocess.run([sys.executable, "-c", FORGED, form], capture_output=True, text=True, check=True)
    assert len(done.stderr.rstrip("\n").split("\n")) == 2, done.stderr
    assert not {"\r", "\x1b", "\u2028"} & set(done.stderr)


COMMAND = """
import structlog
from service.logs import configure_logging, log_of_a_command
log_of_a_command()
log = structlog.get_logger()
log.info("releases_listed", releases=3)
log.warning("trust_missing")
print("the answer")
configure_logging(as_json=True)
log.info("listening")
"""


def test_what_a_command_logs_is_no_part_of_its_answer() -> None:
    done = subprocess.run([sys.executable, "-c", COMMAND], capture_output=True, text=True, check=True)
    assert done.stdout == "the answer\n"
    assert "releases_listed" not in done.stderr
    assert "trust_missing" in done.stderr
    assert '"event": "listening"' in done.stderr
