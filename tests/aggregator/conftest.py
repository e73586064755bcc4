"""No test of the aggregator builds a training model that is committed, or that another worker has built."""

from __future__ import annotations

import aggregator_world
from training_models import forget, training_model

from aggregator import initial_release
from models.export import release


def pytest_sessionfinish() -> None:
    forget()


# In each module that has bound the name; not in its own, whose tests run on the same workers.
for module in (aggregator_world, release, initial_release):
    module.export_training_model = training_model
