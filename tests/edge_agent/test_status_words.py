"""What ``fedge-agent status`` says of telemetry, before anything was sent and while it is more than streaming would be."""

from __future__ import annotations

import pytest

from edge_agent.commands.status_table import telemetry_words


@pytest.mark.parametrize(
    ("sent", "raw", "said"),
    [
        (0, 0, "nothing sent yet"),
        (0, 4000, "nothing sent yet"),
        (1200, 0, "1.2 kB sent; no window was seen yet that streaming could have sent"),
        (
            3130,
            1000,
            "3.1 kB sent, 3.1 times what raw streaming would have by now: a start sends its part at once",
        ),
        (1000, 100_000, "1.0 kB sent, 99.00% of raw streaming saved"),
    ],
)
def test_nothing_is_compared_with_nothing_and_more_is_called_more(sent: int, raw: int, said: str) -> None:
    assert telemetry_words(sent, raw) == said
