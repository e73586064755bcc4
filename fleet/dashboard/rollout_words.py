"""What a word to a rollout would do, said before it is said: in numbers of devices, and by whom it may be said.

Pure. The server asks the same questions again when the word is said (`fleet.rollouts.saying`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, assert_never

from fleet.gates.words import devices
from fleet.rollouts.reach import Reach
from fleet.rollouts.states import Verb
from fleet.views.rollouts import RolloutView
from service.roles import Caller, Role, allows

__all__ = ["ALWAYS_SHOWN", "Deed", "Word", "deed_of", "words_for"]

ALWAYS_SHOWN: Final = (Verb.PAUSE, Verb.ROLLBACK)
"""What may be needed at once is at its place whatever the state, and says there why it cannot be done."""

ORDER: Final = (
    *(Verb.APPROVE, Verb.START, Verb.RESUME, Verb.PAUSE, Verb.ROLLBACK),
    *(Verb.TRIGGER_NEXT_GROUP, Verb.RETRY_FAILED, Verb.CANCEL),
)
"""What goes on first, then what stops."""

LABELS: Final[dict[Verb, str]] = {
    Verb.APPROVE: "Approve",
    Verb.START: "Start",
    Verb.PAUSE: "Pause",
    Verb.RESUME: "Resume",
    Verb.CANCEL: "Cancel",
    Verb.ROLLBACK: "Roll back",
    Verb.TRIGGER_NEXT_GROUP: "Do not wait for this group",
    Verb.RETRY_FAILED: "Try failed devices again",
}
DANGEROUS: Final = frozenset({Verb.ROLLBACK, Verb.CANCEL})


@dataclass(frozen=True, kw_only=True)
class Word:
    """A button: what it says, whether it can be pressed, and if not why."""

    verb: Verb
    label: str
    is_dangerous: bool
    refusal: str = ""


@dataclass(frozen=True, kw_only=True)
class Deed:
    """What a person is asked before it is done: a question, what follows, and the button that names the number of devices."""

    question: str
    follows: tuple[str, ...]
    button: str
    is_dangerous: bool


def words_for(view: RolloutView, caller: Caller) -> list[Word]:
    """What `caller` may say to this rollout now; a viewer may say nothing."""
    if caller.role is None or not allows(caller.role, Role.OPERATOR):
        return []
    shown = [verb for verb in ORDER if verb in view.verbs or verb in ALWAYS_SHOWN]
    return [
        Word(
            verb=verb,
            label=LABELS[verb],
            is_dangerous=verb is Verb.ROLLBACK,
            refusal=_refusal(view, caller, verb),
        )
        for verb in shown
    ]


def _refusal(view: RolloutView, caller: Caller, verb: Verb) -> str:
    if verb not in view.verbs:
        return f"a rollout that is {view.state} cannot {verb}"
    if verb is not Verb.APPROVE:
        return ""
    if not caller.is_person:
        return "a person approves, with a token of their own"
    if caller.person == view.author or caller.actor == view.created_by:
        return "another person than its author approves"
    return ""


def deed_of(verb: Verb, view: RolloutView, reach: Reach) -> Deed:
    """What `verb` would do to the rollout as it stands."""
    present = next((group for group in view.groups if group.state in {"RUNNING", "SOAKING"}), None)
    following = next((group for group in view.groups if group.state == "SCHEDULED"), None)
    first = view.groups[0]
    everybody, holding, waiting = devices(reach.all), devices(reach.holding), devices(reach.waiting)
    follow, again = 0 if following is None else following.devices, devices(reach.retryable)
    question: str
    follows: tuple[str, ...]
    match verb:
        case Verb.APPROVE:
            question, button = f"Approve {view.release} for {everybody}?", f"Approve for {everybody}"
            follows = (
                f"You say that these devices may run {view.release}, and that they may train from it.",
                "Nothing is installed before somebody starts it.",
            )
        case Verb.START:
            question = f"Start with {devices(first.devices)} of {reach.all}?"
            button = f"Start: {devices(first.devices)} now, {everybody} in all"
            follows = (
                f"Group {first.name} gets {view.release} now: {devices(first.devices)}.",
                "The other groups follow by themselves as the gates allow.",
            )
        case Verb.PAUSE:
            question, button = "Pause this rollout?", f"Pause: {waiting} wait"
            follows = (
                f"No further device gets {view.release}: {waiting} wait.",
                f"{holding} keep it, of which {reach.under_way} are installing it now and will finish.",
                "Nothing is judged meanwhile.",
            )
        case Verb.RESUME:
            question, button = "Go on with this rollout?", f"Resume for {waiting}"
            follows = (
                f"{waiting} still wait for {view.release}; those of the present group get it now.",
                "The gates look on where they stopped.",
            )
        case Verb.CANCEL:
            question, button = "Cancel this rollout for good?", f"Cancel for {waiting}"
            follows = (
                f"{waiting} will not get {view.release}.",
                f"{holding} keep it. To take it back from them, roll back instead.",
            )
        case Verb.ROLLBACK:
            question, button = f"Roll {holding} back?", f"Roll back {holding}"
            follows = (
                f"Each goes back to {view.plan.get('rollback_to') or 'what it ran before'}, now and all at once.",
                f"{view.release} is withdrawn for good: nobody builds upon it, and no rollout takes it out again without force.",
                f"{waiting} that wait do not get it.",
            )
        case Verb.TRIGGER_NEXT_GROUP:
            name = "the present group" if present is None else f"group {present.name}"
            question, button = f"Do not wait for {name}?", f"Go on to {devices(follow)}"
            follows = (
                "What its gates have not yet excluded stays open, and the timeline says that you did not wait.",
                f"{devices(follow)} of the next group get {view.release} now.",
            )
        case Verb.RETRY_FAILED:
            question, button = f"Try {again} again?", f"Try {again} again"
            follows = ("Each that failed or timed out gets one more attempt, as rate and windows allow.",)
        case _:
            assert_never(verb)
    return Deed(question=question, follows=follows, button=button, is_dangerous=verb in DANGEROUS)
