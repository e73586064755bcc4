"""The stage link over Flower: each device a message of its own, `protocol.sum_terms` says where in it.

Nothing a device sends raises here: whatever cannot be read ends as a `DeviceReply` with a reason in words.
"""

from __future__ import annotations

from aggregator.flower.flower_internals import ConfigRecord, RecordDict
from aggregator.flower.link import FlowerLink, question_records
from aggregator.rounds.cohort_link import Ticket
from aggregator.rounds.stage_link import StageRequest
from protocol.errors import QuestionError
from protocol.names import DeviceId

__all__ = ["FlowerStageLink"]


class FlowerStageLink(FlowerLink[bytes]):
    """Implements `aggregator.rounds.stage_link.StageLink`."""

    # Looking costs next to nothing, waiting is paid in every stage.
    GATHER_S = 0.005

    def send(self, request: StageRequest, *, lifetime_s: float) -> dict[Ticket, DeviceId]:
        """See `StageLink.send`."""
        shared = question_records(request.question, request.arrays) if request.question else {}
        contents = {}
        for device, message in request.messages.items():
            stage = ConfigRecord({"message": message})
            if request.terms:
                stage["terms"] = request.terms
            contents[device] = RecordDict({**shared, "sum": stage})
        return self._post(contents, request.kind, lifetime_s, request.reply_bytes)

    def _read(self, records: RecordDict) -> bytes:
        configs = records.config_records
        content = configs["sum"].get("message") if "sum" in configs else None
        if not isinstance(content, bytes):
            raise QuestionError("the reply holds no config record 'sum' with the bytes 'message'")
        return content
