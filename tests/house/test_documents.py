"""What the documents say exists: every key of the configurations, every command they show, every file they point at."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import msgspec
import pytest
from click import Context, Group
from typer.main import get_command

from aggregator.cli import cli as aggregator
from aggregator.privacy.settings import FamilyBudget, NoiseSettings
from aggregator.rounds.assessment import ThresholdSettings
from aggregator.rounds.cohorts import CohortSettings
from aggregator.rounds.family import FamilySettings
from aggregator.rounds.gate import GateSettings
from aggregator.rounds.int8_settings import Int8Settings
from aggregator.rounds.round_settings import RoundSettings
from aggregator.rounds.sum_policy import SecureSumSettings
from aggregator.settings import Settings as AggregatorSettings
from aggregator.triggers import TriggerSettings
from edge_agent import settings as agent_settings
from edge_agent.commands.application import application as agent
from edge_agent.sources.live_settings import (
    LineSettings,
    ModbusRegister,
    ModbusSettings,
    OpcUaSettings,
    TopicSettings,
)
from edge_agent.sources.settings import PluginSettings, ReplaySettings, SimulatedSettings
from fedge.cli import COMMANDS
from fleet.alert_settings import (
    AlertSettings,
    EmailReceiver,
    PagerDutyReceiver,
    SlackReceiver,
    WebhookReceiver,
)
from fleet.cli import app as fleet
from fleet.gates.plan import GatePlan
from fleet.rollouts.pacing import Quarantine, Timeouts
from fleet.rollouts.plans import AbortRule, GroupPlan, Limit, RolloutPlan, SuccessCriteria
from fleet.settings import EnrolmentSettings, MqttSettings, RetentionSettings
from fleet.settings import Settings as FleetSettings
from protocol.training import TrainingSettings as LearningSettings
from simulations.cli import app as simulation

ROOT = Path(__file__).parents[2]
PAGES = [
    page
    for pattern in (
        "*.md",
        "docs/*.md",
        "docs/tutorials/*.md",
        "docs/devices/*.md",
        "*/README.md",
        "*/*/README.md",
    )
    for page in ROOT.glob(pattern)
    if not any(part.startswith(".") for part in page.relative_to(ROOT).parts)
]
ALERTS = [AlertSettings, WebhookReceiver, SlackReceiver, PagerDutyReceiver, EmailReceiver]
PROGRAMS = {
    "fedge-agent": get_command(agent),
    "fedge-aggregator": get_command(aggregator),
    "fedge-fleet": get_command(fleet),
    "fedge-sim": get_command(simulation),
}


def shown_commands() -> list[tuple[str, str]]:
    """(page, command) for each line of a code block that calls one of our programs."""
    return [
        (page.relative_to(ROOT).as_posix(), match[0].strip())
        for page in PAGES
        for block in re.findall(r"^```\w*\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
        for line in block.splitlines()
        for part in re.split(
            r";|&&|\s&(?:\s|$)", re.split(r"\s+#|\s{2,}(?=[a-z])|\s>\s|\s\|\s|\s\\$", line)[0]
        )
        if (
            match := re.search(
                r"(?<!lib/)\bfedge-(?:agent|aggregator|fleet|sim) .*|(?<![\w.-])fedge (?:[a-z]|--[a-z]).*",
                part,
            )
        )
    ]


@pytest.mark.parametrize(("page", "line"), shown_commands())
def test_every_command_that_a_document_shows_exists_with_its_options(page: str, line: str) -> None:
    program, *words = shlex.split(line.replace("…", "").replace("[", " ").replace("]", " "))
    if program == "fedge":
        if words[0] in {"--help", "--version"}:
            return
        assert words[0] in COMMANDS, f"{page}: {line!r}: fedge has no command {words[0]!r}"
        owner = COMMANDS[words[0]]
        program, words = f"fedge-{owner.program}", [*owner.words, *words[1:]]
    command, context = PROGRAMS[program], Context(PROGRAMS[program])
    for alternatives in words:
        if not isinstance(command, Group):
            break
        for word in alternatives.split("|"):
            assert word in command.commands, f"{page}: {line!r}: {program} has no command {word!r}"
        command = command.commands[alternatives.split("|")[0]]
    if not isinstance(command, Group):
        known = {option for parameter in command.get_params(context) for option in parameter.opts}
        for word in words:
            if word.startswith("--"):
                assert word in known, f"{page}: {line!r} has no option {word}"


def test_the_commands_are_found_at_all() -> None:
    assert len(shown_commands()) > 40
    assert ("README.md", "fedge init plant --host localhost") in shown_commands()
    assert ("docs/agent.md", "fedge-agent enrol --config agent.toml") in shown_commands()


@pytest.mark.parametrize(
    ("page", "sections"),
    [
        (
            "docs/agent.md",
            [
                *(
                    getattr(agent_settings, name)
                    for name in agent_settings.__all__
                    if name.endswith("Settings")
                ),
                SimulatedSettings,
                ReplaySettings,
                PluginSettings,
                OpcUaSettings,
                ModbusSettings,
                ModbusRegister,
                TopicSettings,
                LineSettings,
            ],
        ),
        (
            "docs/aggregator.md",
            [
                AggregatorSettings,
                FamilySettings,
                RoundSettings,
                CohortSettings,
                SecureSumSettings,
                GateSettings,
                ThresholdSettings,
                Int8Settings,
                TriggerSettings,
                NoiseSettings,
                FamilyBudget,
                LearningSettings,
            ],
        ),
        ("deploy/examples/fleet.toml", [FleetSettings, MqttSettings, EnrolmentSettings, RetentionSettings]),
        ("deploy/examples/fleet.toml", ALERTS),
        ("docs/alerts.md", ALERTS),
        ("docs/scaling.md", [RetentionSettings]),
        ("docs/gates.md", [GatePlan]),
        ("docs/fleet.md", [RolloutPlan, GroupPlan, Limit, SuccessCriteria, AbortRule, Timeouts, Quarantine]),
    ],
)
def test_every_key_of_a_configuration_is_explained(page: str, sections: list[type]) -> None:
    text = (ROOT / page).read_text()
    for section in sections:
        if section is getattr(agent_settings, "PrivacySettings", None):
            continue  # docs/privacy.md has them
        for key in {field.name for field in msgspec.structs.fields(section)} - {"config_file"}:
            assert re.search(rf"\b{key}\b", text), f"{page} does not explain {section.__name__}.{key}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), f"{page}: no {target}"


NAMING = sorted(
    {*PAGES, *ROOT.glob("docs/**/*.md"), *(file for file in ROOT.glob("deploy/**/*") if file.is_file())}
    - {ROOT / "CHANGELOG.md"}
)
"""Whatever names files of the checkout as they are; the changelog is history."""

FOLDERS = "aggregator benchmarks deploy docs edge_agent fedge fleet models protocol runtime service simulations tests"
NAMED = re.compile(
    rf"(?<![\w/.:<>{{}}*$~-])(?<!--plot )(?:(?:{FOLDERS.replace(' ', '|')})/(?!v1)[\w./-]*\w|(?:\w+/)*\w+\.(?:py|sh)\b)"
)

HERE = {
    "/".join(file.parts[at:])
    for folder in FOLDERS.split()
    for file in (path.relative_to(ROOT) for path in ROOT.glob(f"{folder}/**/*.[ps][yh]"))
    for at in range(len(file.parts))
}
"""Every script and module, by its path and by each end of it."""


def gone_from(page: Path, text: str) -> list[str]:
    """Files and folders that `text` names and that are not there; a decision may name one and say "(gone)" behind it."""
    return [
        match[0]
        for match in NAMED.finditer(text)
        if match[0] not in HERE
        and not any((at / match[0]).exists() for at in (ROOT, page.parent))
        and f"{match[0]}.py" not in HERE
        and not match[0].startswith("my_")  # the reader's own
        and f"cat > {match[0]} <<" not in text  # which the page has its reader write
        and not ("decisions" in page.parts and re.match(r"`?\s\(gone\)", text[match.end() :]))
    ]


def test_every_file_that_a_document_names_is_there() -> None:
    missing = {
        page.relative_to(ROOT).as_posix(): gone
        for page in NAMING
        if (gone := gone_from(page, page.read_text(errors="replace")))
    }
    assert not missing
    for text in (
        "`tests/fleet/test_gone.py`",
        "see test_gone.py",
        "`fleet/gone/it.toml`",
        "benchmarks/gone.py --small",
    ):
        assert gone_from(ROOT / "docs" / "fleet.md", text), text


def test_each_key_that_can_be_stolen_has_a_procedure_whose_tests_exist() -> None:
    page = (ROOT / "docs" / "security.md").read_text()
    table = page.partition("## Keys")[2].partition("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(rows) >= 20
    for row in rows:
        assert len([cell for cell in row.strip("| ").split(" | ") if cell]) == 4, row
    known = {file.name for file in (ROOT / "tests").rglob("test_*.py")}
    assert not set(re.findall(r"test_\w+\.py", page)) - known
