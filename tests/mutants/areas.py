"""What is mutated, and by which tests it must be killed: one row an area.

A row names the code that guards people in one respect (`code`, globs from the root) and the test files that are answerable for
it (`tests`, globs too). A glob that matches nothing is an error, so that a renamed module or test cannot slip out of the table.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Area:
    """One area: its name, the code that is mutated and the test files that may kill."""

    name: str
    code: tuple[str, ...]
    tests: tuple[str, ...]


AT_IMPORT = ("tests/house/test_values.py", "tests/protocol/test_schemas.py")
"""Asked for every mutant of what runs at import: they look at all structs and dataclasses, whoever imported them first. A
parameter in brackets names the package that a test looks at; without one it looks at `protocol`."""

AREAS = (
    Area(
        name="protocol",
        code=(
            "protocol/bundle.py",
            "protocol/flat_vectors.py",
            "protocol/grids.py",
            "protocol/limits.py",
            "protocol/manifest.py",
            "protocol/messages/*.py",
            "protocol/names.py",
            "protocol/questions.py",
            "protocol/secure_answers.py",
            "protocol/sum_terms.py",
            "protocol/topics.py",
            "protocol/training.py",
        ),
        tests=(
            "tests/protocol/test_answers_known_answers.py",
            "tests/protocol/test_bundle.py",
            "tests/protocol/test_limits.py",
            "tests/protocol/test_me*.py",
            "tests/protocol/test_questions_and_grids.py",
            "tests/protocol/test_secure_answers.py",
            "tests/protocol/test_topics_and_names.py",
        ),
    ),
    Area(
        name="secure-sum",
        code=("protocol/secure_sum/*.py",),
        tests=("tests/protocol/test_limits.py", "tests/protocol/test_secure_sum_*.py"),
    ),
    Area(
        name="privacy",
        code=(
            "protocol/privacy*.py",
            "protocol/privacy/*.py",
            "aggregator/privacy/*.py",
            "edge_agent/privacy/*.py",
        ),
        tests=(
            "tests/protocol/test_privacy_*.py",
            "tests/aggregator/test_privacy_*.py",
            "tests/aggregator/test_example_level.py",
            "tests/aggregator/test_verify_release.py",
            "tests/edge_agent/test_privacy_account.py",
        ),
    ),
    Area(
        name="thresholds",
        code=("models/thresholds.py", "models/drift/*.py", "edge_agent/detection_memory.py"),
        tests=(
            "tests/models/test_detection_drift.py",
            "tests/models/test_detection_monitor.py",
            "tests/models/test_detection_thresholds.py",
            "tests/models/test_drift_bins.py",
            "tests/models/test_drift_replay.py",
            "tests/models/test_drift_golden.py",
            "tests/models/test_drift_labels.py",
            "tests/edge_agent/test_agent_pipeline.py",
            "tests/edge_agent/test_detection_memory.py",
        ),
    ),
    Area(
        name="gates",
        code=(
            "aggregator/rounds/gate.py",
            "aggregator/rounds/refit.py",
            "aggregator/rounds/noise_floor.py",
            "aggregator/rounds/admission.py",
            "aggregator/rounds/attendance.py",
            "aggregator/rounds/optimizers.py",
            "aggregator/triggers.py",
            "aggregator/run_scheduler.py",
            "edge_agent/readiness.py",
            "fleet/rollouts/limits.py",
            "fleet/rollouts/decisions.py",
            "fleet/rollouts/progress.py",
            "fleet/rollouts/states.py",
        ),
        tests=(
            "tests/aggregator/test_admission.py",
            "tests/aggregator/test_attendance.py",
            "tests/aggregator/test_aggregator_rules.py",
            "tests/aggregator/test_assessment_sums.py",
            "tests/aggregator/test_candidate_gate.py",
            "tests/aggregator/test_noise_floor.py",
            "tests/aggregator/test_refit.py",
            "tests/aggregator/test_run_scheduler.py",
            "tests/aggregator/test_server_optimizers.py",
            "tests/edge_agent/test_agent_learner_supervisor.py",
            "tests/fleet/test_rollouts_decisions.py",
            "tests/fleet/test_rollouts_limits.py",
            "tests/fleet/test_rollouts_invariants.py",
            "tests/fleet/test_rollouts_patience.py",
            "tests/fleet/test_rollouts_returns.py",
            "tests/fleet/test_rollouts_states.py",
        ),
    ),
    Area(
        name="installer",
        code=(
            "edge_agent/installation/acceptance.py",
            "edge_agent/installation/transitions.py",
            "edge_agent/installation/trial.py",
            "edge_agent/installation/recovery.py",
            "edge_agent/installation/journal.py",
            "edge_agent/installation/journal_file.py",
            "edge_agent/installation/verification.py",
            "edge_agent/installation/installer.py",
            "edge_agent/installation/active.py",
            "edge_agent/installation/inbox.py",
        ),
        tests=("tests/edge_agent/test_installation_*.py",),
    ),
    Area(
        name="auth",
        code=(
            "service/access.py",
            "service/roles.py",
            "service/tokens.py",
            "service/body_limit.py",
            "fleet/auth/*.py",
            "fleet/broker_door/*.py",
            "fleet/enrolment.py",
            "aggregator/tokens.py",
            "protocol/identity.py",
        ),
        tests=(
            "tests/service/test_*.py",
            "tests/fleet/test_broker_door.py",
            "tests/fleet/test_fleet_tokens.py",
            "tests/fleet/test_fleet_enrolment.py",
            "tests/fleet/test_fleet_certificates.py",
            "tests/fleet/test_fleet_device_calls.py",
            "tests/fleet/test_fleet_api.py",
            "tests/aggregator/test_aggregator_api.py",
            "tests/aggregator/test_aggregator_files.py",
            "tests/protocol/test_identity.py",
        ),
    ),
)
