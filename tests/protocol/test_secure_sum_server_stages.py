"""The server's stages come in order, and the last one ends as soon as it has the shares that it takes."""

from __future__ import annotations

import pytest
from secure_sum_stages import assert_exact, rehearsal

pytestmark = pytest.mark.edge


def test_the_stages_of_the_server_come_in_order() -> None:
    played = rehearsal(3, 5)
    for close in (
        played.server.close_sharing,
        played.server.close_masking,
        played.server.close_confirming,
        played.server.finish,
    ):
        with pytest.raises(RuntimeError, match="the server is at advertisements"):
            close()
    assert not played.server.can_finish
    assert_exact(played, played.play())


def test_the_server_need_not_wait_for_more_shares_than_it_takes() -> None:
    played = rehearsal(10, 5)
    played.advertise()
    played.share()
    played.mask()
    requests = played.to_devices
    for answered, (device, request) in enumerate(requests.items()):
        assert played.server.can_finish == (answered >= 6)
        played.server.accept_revealed(device, played.roles[device].unmask(request))
    assert_exact(played, played.server.finish())
