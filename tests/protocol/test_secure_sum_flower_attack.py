"""Why Fedge does not use Flower's SecAgg+: a server recovers a device's update from Flower's own client code, and not from ours.

The attack: in the unmask stage the server lists one device as alive and as dead. Flower's clients answer with shares of both its
secrets; then its masked vector opens. `test_secure_sum_refusals_unmasking` plays the same against our devices, refused, and shows that it
would work on one that answered. What Flower does is pinned here (1.42): should it start to refuse, this test says so.
"""

from __future__ import annotations

import numpy as np
import pytest
from secure_sum_rehearsal import Rehearsal, announcement, device_ids, random_vectors

from protocol.secure_sum.errors import BothListsError
from protocol.secure_sum.messages import UnmaskRequest, pack_positions

pytest.importorskip("flwr.client.mod", reason="needs the server's Flower, which a device does not carry")

from flwr.app import ConfigRecord
from flwr.client.mod.secure_aggregation.secaggplus_mod import (  # the attack is on these very functions
    SecAggPlusState,
    _collect_masked_vectors,
    _setup,
    _share_keys,
    _unmask,
)
from flwr.common import bytes_to_ndarray, ndarrays_to_parameters
from flwr.common.secure_aggregation.crypto.shamir import combine_shares
from flwr.common.secure_aggregation.crypto.symmetric_encryption import generate_shared_key
from flwr.common.secure_aggregation.ndarrays_arithmetic import factor_extract, parameters_mod
from flwr.common.secure_aggregation.quantization import dequantize
from flwr.common.secure_aggregation.secaggplus_constants import Key
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen
from flwr.supercore.primitives.asymmetric import bytes_to_private_key, bytes_to_public_key

NODES = (1, 2, 3, 4)
VICTIM = 2
CLIP, TARGET, MODULUS, EXAMPLES = 3.0, 1 << 22, 1 << 32, 500
SETUP = {
    Key.SAMPLE_NUMBER: 4,
    Key.SHARE_NUMBER: 4,
    Key.THRESHOLD: 3,
    Key.CLIPPING_RANGE: CLIP,
    Key.TARGET_RANGE: TARGET,
    Key.MOD_RANGE: MODULUS,
    Key.MAX_WEIGHT: 1000.0,
}


def test_a_server_opens_a_device_s_update_through_flower_s_own_client_code() -> None:
    rng = np.random.default_rng(8)
    updates = {node: rng.uniform(-1, 1, 50) for node in NODES}
    states = {node: SecAggPlusState() for node in NODES}
    keys = {}
    for node, state in states.items():
        state.nid = node
        shown = _setup(state, ConfigRecord(dict(SETUP)))
        keys[str(node)] = [shown[Key.PUBLIC_KEY_1], shown[Key.PUBLIC_KEY_2]]
    parcels: dict[int, list[tuple[int, bytes]]] = {node: [] for node in NODES}
    for node, state in states.items():
        sent = _share_keys(state, ConfigRecord(dict(keys)))
        for to, sealed in zip(sent[Key.DESTINATION_LIST], sent[Key.CIPHERTEXT_LIST], strict=True):
            parcels[to].append((node, sealed))
    masked = {}
    for node, state in states.items():
        delivery = {
            Key.SOURCE_LIST: [source for source, _ in parcels[node]],
            Key.CIPHERTEXT_LIST: [sealed for _, sealed in parcels[node]],
        }
        answer = _collect_masked_vectors(
            state, ConfigRecord(delivery), EXAMPLES, ndarrays_to_parameters([updates[node]])
        )
        masked[node] = [bytes_to_ndarray(part) for part in answer[Key.MASKED_PARAMETERS]]

    # The server lists the victim twice, and every client answers.
    seed_shares, key_shares = [], []
    for state in states.values():
        request = {Key.ACTIVE_NODE_ID_LIST: list(NODES), Key.DEAD_NODE_ID_LIST: [VICTIM]}
        answer = _unmask(state, ConfigRecord(request))
        shares = answer[Key.SHARE_LIST]
        seed_shares.append(shares[NODES.index(VICTIM)])
        key_shares.append(shares[-1])
    seed, secret = combine_shares(seed_shares), combine_shares(key_shares)

    shapes = [part.shape for part in masked[VICTIM]]
    opened = [part.astype(np.int64) for part in masked[VICTIM]]
    takes = [(1, pseudo_rand_gen(seed, MODULUS, shapes))]
    for node in NODES:
        if node != VICTIM:
            agreed = generate_shared_key(
                bytes_to_private_key(secret), bytes_to_public_key(keys[str(node)][0])
            )
            takes.append((1 if node < VICTIM else -1, pseudo_rand_gen(agreed, MODULUS, shapes)))
    for sign, mask in takes:
        opened = [part - sign * layer for part, layer in zip(opened, mask, strict=True)]
    weight, words = factor_extract(parameters_mod(opened, MODULUS))
    recovered = dequantize(words, CLIP, TARGET)[0] / (weight / TARGET)
    np.testing.assert_allclose(recovered, updates[VICTIM], atol=1e-4)
    # And how many examples it holds, which nobody asked to keep secret from the sum.
    assert weight / TARGET * SETUP[Key.MAX_WEIGHT] == pytest.approx(EXAMPLES)


def test_the_same_request_is_refused_by_every_one_of_our_devices() -> None:
    ids = device_ids(4)
    played = Rehearsal(announcement(50), random_vectors(ids, 50))
    played.advertise()
    played.share()
    played.mask()
    for device in ids:
        honest: UnmaskRequest = played.to_devices[device]
        twice = UnmaskRequest(
            session=honest.session,
            round_number=honest.round_number,
            survivors=honest.survivors,
            dropped=pack_positions([1], 4),
        )
        with pytest.raises(BothListsError, match="'d00001' listed as survivor and as dropped"):
            played.roles[device].unmask(twice)
