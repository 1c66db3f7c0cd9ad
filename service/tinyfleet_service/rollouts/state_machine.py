"""The rules of a rollout, as pure functions: no I/O, no clock, no database. `tick` carries out what they say.

Stages, in order: shadow (canaries, the candidate beside the active model) -> canary -> waves/1 .. waves/n -> done.
The last wave is the holdout when there is one.

Rules
 1. A member wants what follows from its rollout and its status alone (`wanted`), so a tick assigns the difference
    between wanted and assigned: repeating a tick, or dying between any two writes, changes nothing.
 2. A device is assigned the candidate only in its own stage or later: shadow touches wave 0 with `until` SHADOW,
    canary lets wave 0 go on, wave k touches waves up to k. Nothing is assigned for the first time while paused or held.
 3. Two clocks. From assignment: a device never heard from since is *unreached*: neither success nor failure, it
    keeps its assignment. From the last contact of a device that has taken its assignment up (it follows it, downloads,
    shadows or runs the candidate): nothing within max(3 report intervals, its sleep) is SILENT, which counts as harm:
    a device may be bricked before it ever reports the candidate active. A late report gives a silent device back the
    status that its slots show. While nobody could be heard (`silence_from`) nobody falls silent, and who has taken the
    assignment up is waited for until it is heard again or silent.
 4. A device counts as REJECTED or UNDONE only once it follows its newest assignment: an old rejection of the same
    image does not speak about this rollout.
 5. A stage is ready when the reachable share of its devices that has settled and soaked is at least the coverage
    target, and at least one device has. Unreached devices are waited for as long as the longest silence allowance,
    then left.
 6. A stage is passed when it is ready and every required gate says promote. Missing data is never success: one whose
    devices have all left is passed, but a canary that has left nobody to learn from is HELD before the waves.
 7. A required gate that says rollback undoes its class, holding the others (`on_harm` class), or all. It acts while
    paused or held too, after the deadline as before it, and before what a person asks for at the same moment, unless
    that ends the rollout. In shadow it acts before any device relies on the candidate.
 8. Neither passed nor harmful at the deadline: HELD, for a person.
 9. done needs coverage of the whole membership; stragglers keep the assignment after promotion.
10. promote (by a person) passes the stage without its gates. abort returns devices that have not confirmed and
    leaves the others where they are; undo returns all. Going back is an assignment of the previous build, which the
    device still holds. Where there is none, who runs the candidate keeps it, and from the others the assignment is
    withdrawn: what they have not installed they never will.
11. A member never leaves UNDOING but to UNDONE, and neither UNDONE nor SKIPPED gets the candidate again in this
    rollout. SKIPPED are also devices that were revoked, unless they rejected the candidate or were silent before, since
    what they say no more is no harm; and devices that a newer rollout took on their way here.
12. PENDING waits for a second person: it assigns nobody, looks at nothing, and goes on by `approve` or ends by `abort`.
13. In a frozen fleet no device gets the candidate for the first time and no stage is passed, by a person neither. Harm
    still acts, and going back goes on. What a device was assigned before the freeze it may finish.
14. retry gives members that rejected the candidate a fresh start, as if they had never been assigned: their next
    assignment has a higher sequence, and rule 4 forgets the old rejection. It changes neither state nor stage. Until
    then they hold the old assignment, so they go back as others do, when the rollout is undone meanwhile.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple

from tinyfleet_service.database.models import MemberStatus, RolloutStage, RolloutState
from tinyfleet_service.words import quantity, reason_words

LIVE = (RolloutState.RUNNING, RolloutState.PAUSED, RolloutState.HELD)
OPEN = (RolloutState.PENDING, *LIVE)
ENDING = ("abort", "undo")
"""Verbs that end a rollout: neither harm nor another verb comes before them."""
ACTIVE = (MemberStatus.TESTING, MemberStatus.CONFIRMED)
WATCHED = (MemberStatus.DOWNLOADING, MemberStatus.SHADOWING, *ACTIVE)
TAKEN = (*WATCHED, MemberStatus.REJECTED, MemberStatus.SILENT)
"""The assignment was taken up: such a device settles."""
UNDECIDED = (
    MemberStatus.PLANNED, MemberStatus.ASSIGNED, MemberStatus.DOWNLOADING, MemberStatus.SHADOWING, MemberStatus.TESTING,
)  # fmt: skip
"""On the way to the candidate."""
GOING_BACK = (MemberStatus.UNDOING, MemberStatus.UNDONE)
LEFT = (MemberStatus.SKIPPED, *GOING_BACK)
"""Such a device takes no part any more."""
UNTOUCHED = (MemberStatus.PLANNED, MemberStatus.SKIPPED, MemberStatus.UNDONE)
"""What a device says does not change these."""
CHECKS_OF_SILENT = 3
"""A silent device is listened for so often in the time that it may say nothing."""
ALL_CLASSES = "all"


class Stage(NamedTuple):
    """One stage; `wave` counts within WAVES and is 0 before."""

    name: RolloutStage
    wave: int = 0

    @property
    def key(self) -> str:
        """`shadow`, `canary` or `waves/2`."""
        return f"{self.name}/{self.wave}" if self.name == RolloutStage.WAVES else str(self.name)

    @property
    def title(self) -> str:
        """The same for people: `wave 2`."""
        return f"wave {self.wave}" if self.name == RolloutStage.WAVES else str(self.name)


class Target(StrEnum):
    """Which build a member should run; NOTHING: its assignment is to go."""

    CANDIDATE = "candidate"
    PREVIOUS = "previous"
    NOTHING = "nothing"


class Want(NamedTuple):
    """The assignment a member should have."""

    target: Target
    shadow_only: bool


class Outcome(StrEnum):
    """What a gate says at one look."""

    PROMOTE = "promote"
    HOLD = "hold"
    ROLLBACK = "rollback"


@dataclass(frozen=True)
class Verdict:
    """One gate's outcome as the rules see it; `scope` is `all` or a device class."""

    gate: str
    scope: str
    required: bool
    outcome: Outcome
    summary: str


@dataclass(frozen=True)
class RolloutView:
    """A rollout as the rules see it. `stages` are those of its plan, in order."""

    state: RolloutState
    stage: Stage
    stage_since: datetime
    stages: tuple[Stage, ...]
    soak_s: float
    deadline_s: float
    coverage: float
    on_harm: str
    requested: str | None = None
    frozen: bool = False


@dataclass(frozen=True)
class MemberView:
    """A member as the rules see it; `silence_s` is how long it may say nothing."""

    device_id: str
    device_class: str
    wave: int
    has_previous: bool
    silence_s: float
    status: MemberStatus = MemberStatus.PLANNED
    reason: int = 0
    assigned_at: datetime | None = None
    heard_at: datetime | None = None
    shadowed_at: datetime | None = None
    activated_at: datetime | None = None
    confirmed_at: datetime | None = None
    silent_at: datetime | None = None
    finished_at: datetime | None = None


class Slot(StrEnum):
    """State of the slot that holds the candidate on a device; NONE when no slot does."""

    NONE = "none"
    WRITING = "writing"
    STAGED = "staged"
    SHADOW = "shadow"
    TESTING = "testing"
    CONFIRMED = "confirmed"
    REJECTED = "rejected"


@dataclass(frozen=True)
class Seen:
    """What a device last said. `follows`: it has taken up its newest assignment. `slot` is the candidate's."""

    heard_at: datetime | None
    follows: bool
    slot: Slot
    candidate_active: bool
    reason: int = 0


@dataclass(frozen=True)
class Transition:
    """Where the rollout goes. `undo`: classes to take back; `keep_confirmed` spares devices that confirmed; `retry`:
    members that rejected the candidate begin anew.
    """

    state: RolloutState
    stage: Stage
    reason: str
    undo: tuple[str, ...] = ()
    keep_confirmed: bool = False
    retry: bool = False


def next_member(member: MemberView, seen: Seen, now: datetime, silence_from: datetime | None = None) -> MemberView:
    """The member after hearing `seen` (rules 3, 4, 11). Times of first events are kept once set.

    What a device did not say before `silence_from` makes nobody silent, and nobody who was silent then heard again.
    """
    if member.status in UNTOUCHED:
        return member
    silence_from = None if member.status == MemberStatus.SILENT else silence_from
    if seen.heard_at != member.heard_at and _heard_since(member, seen):
        member = replace(member, heard_at=seen.heard_at)
    if member.status == MemberStatus.UNDOING:
        back = seen.follows and not seen.candidate_active and seen.slot not in (Slot.SHADOW, Slot.TESTING)
        return replace(member, status=MemberStatus.UNDONE, finished_at=now) if back else member
    return _silenced(_from_slot(member, seen, now), seen, now, silence_from)


def _heard_since(member: MemberView, seen: Seen) -> bool:
    return seen.heard_at is not None and (member.assigned_at is None or seen.heard_at >= member.assigned_at)


def _from_slot(member: MemberView, seen: Seen, now: datetime) -> MemberView:
    if member.heard_at is None:
        return member
    if seen.slot == Slot.REJECTED and not seen.candidate_active:
        if not (seen.follows or member.shadowed_at or member.activated_at):
            return member
        return replace(member, status=MemberStatus.REJECTED, reason=seen.reason, finished_at=member.finished_at or now)
    if seen.candidate_active:
        return _activated(member, seen, now)
    if member.activated_at is not None:  # it ran the candidate and runs something else now: it reverted
        return replace(member, status=MemberStatus.REJECTED, reason=seen.reason, finished_at=member.finished_at or now)
    if seen.slot == Slot.SHADOW:
        return replace(member, status=MemberStatus.SHADOWING, shadowed_at=member.shadowed_at or now)
    if seen.slot in (Slot.WRITING, Slot.STAGED):
        return replace(member, status=MemberStatus.DOWNLOADING)
    return replace(member, status=MemberStatus.ASSIGNED) if member.status == MemberStatus.SILENT else member


def _activated(member: MemberView, seen: Seen, now: datetime) -> MemberView:
    member = replace(member, activated_at=member.activated_at or now, finished_at=None, reason=0)
    if seen.slot == Slot.CONFIRMED:
        return replace(member, status=MemberStatus.CONFIRMED, confirmed_at=member.confirmed_at or now)
    return replace(member, status=MemberStatus.TESTING)


def _silenced(member: MemberView, seen: Seen, now: datetime, silence_from: datetime | None) -> MemberView:
    taken = member.status in WATCHED or (member.status == MemberStatus.ASSIGNED and seen.follows)
    if not taken or member.heard_at is None:
        return member
    if now - max(member.heard_at, silence_from or member.heard_at) <= timedelta(seconds=member.silence_s):
        return member
    return replace(member, status=MemberStatus.SILENT, silent_at=member.silent_at or now)


def next_check(member: MemberView, now: datetime) -> datetime | None:
    """When to look at this member again though its twin does not change: time alone may silence it, and a contact by
    telemetry is not in the twin (rule 3). None: only what the device reports can change it.
    """
    patience = timedelta(seconds=max(member.silence_s, 1.0))
    if member.status == MemberStatus.SILENT:
        return now + patience / CHECKS_OF_SILENT
    if member.status not in (MemberStatus.ASSIGNED, *WATCHED):
        return None
    over = (member.heard_at or now) + patience + timedelta.resolution
    return over if over > now else now + patience


def wanted(rollout: RolloutView, member: MemberView) -> Want | None:
    """The assignment this member should have now; None leaves what it has (rules 1, 2, 10, 11)."""
    if member.status in GOING_BACK:
        return Want(Target.PREVIOUS if member.has_previous else Target.NOTHING, shadow_only=False)
    if member.status == MemberStatus.SKIPPED:
        return None
    assigned = member.assigned_at is not None
    if rollout.frozen and not assigned:
        return None
    if rollout.state == RolloutState.PROMOTED:
        return Want(Target.CANDIDATE, shadow_only=False)
    if rollout.state not in LIVE or (rollout.state != RolloutState.RUNNING and not assigned):
        return None
    if rollout.stage.name == RolloutStage.SHADOW:
        return Want(Target.CANDIDATE, shadow_only=True) if member.wave == 0 and member.has_previous else None
    if member.wave <= rollout.stage.wave:
        return Want(Target.CANDIDATE, shadow_only=False)
    return None


def stage_members(rollout: RolloutView, members: Iterable[MemberView]) -> list[MemberView]:
    """The members whose stage this is."""
    wave = rollout.stage.wave
    chosen = [m for m in members if m.wave == wave and m.status not in LEFT]
    return [m for m in chosen if m.has_previous] if rollout.stage.name == RolloutStage.SHADOW else chosen


def stage_ready(rollout: RolloutView, members: Iterable[MemberView], now: datetime) -> tuple[bool, str]:
    """Whether the stage's devices have settled and soaked (rule 5), and how that reads."""
    cohort = stage_members(rollout, members)
    settled = [m for m in cohort if _settled(rollout, m, now)]
    unreached = [m for m in cohort if m.heard_at is None or (m.status not in TAKEN and _offline(m, now))]
    reachable = len(cohort) - len(unreached)
    patience_s = max((m.silence_s for m in unreached), default=0.0) + rollout.soak_s
    few = not is_share(reachable, len(cohort), rollout.coverage)
    waiting = few and now - rollout.stage_since < timedelta(seconds=patience_s)
    text = f"{len(settled)} of {quantity(len(cohort), 'device')} settled"
    text += f", {len(unreached)} unreached" if unreached else ""
    good = [m for m in settled if m.status not in (MemberStatus.REJECTED, MemberStatus.SILENT)]
    return bool(good) and not waiting and is_share(len(settled), reachable, rollout.coverage), text


def is_share(part: int, whole: int, share: float) -> bool:
    """Whether `part` of `whole` is `share` or more. Divided: 0.55 * 100 is more than 55, and 55 / 100 is 0.55."""
    return not whole or part / whole >= share


def _settled(rollout: RolloutView, member: MemberView, now: datetime) -> bool:
    if member.status in (MemberStatus.REJECTED, MemberStatus.SILENT):
        return True
    since = member.shadowed_at if rollout.stage.name == RolloutStage.SHADOW else member.confirmed_at
    return since is not None and now - since >= timedelta(seconds=rollout.soak_s) and not _offline(member, now)


def _offline(member: MemberView, now: datetime) -> bool:
    return member.heard_at is None or now - member.heard_at > timedelta(seconds=member.silence_s)


def coverage_of(members: Iterable[MemberView]) -> tuple[int, int]:
    """Settled members and all that count, over the whole rollout (rule 9)."""
    counted = [m for m in members if m.status not in LEFT]
    done = (MemberStatus.CONFIRMED, MemberStatus.REJECTED, MemberStatus.SILENT)
    return sum(m.status in done for m in counted), len(counted)


def next_rollout(
    rollout: RolloutView, members: Sequence[MemberView], verdicts: Sequence[Verdict] | None, now: datetime
) -> Transition | None:
    """Where the rollout goes now, None to stay. `verdicts` are those of a look made now, None without a look."""
    ends = rollout.state not in LIVE or rollout.requested in ENDING
    if verdicts and not ends and (harm := _harm(rollout, members, verdicts)):
        return harm
    if rollout.requested:
        return _requested(rollout, members)
    if rollout.state != RolloutState.RUNNING or rollout.frozen:
        return None
    if not stage_members(rollout, members):
        if rollout.stage.name == RolloutStage.CANARY and any(m.status == MemberStatus.PLANNED for m in members):
            text = "no canary is left, nothing was learnt: promote goes on to the waves, abort ends it"
            return Transition(RolloutState.HELD, rollout.stage, text)
        if (forward := _forward(rollout, members, "no device left in it")) is not None:
            return forward
    ready, text = stage_ready(rollout, members, now)
    required = [v for v in verdicts or () if v.required]
    if verdicts is not None and ready and all(v.outcome == Outcome.PROMOTE for v in required):
        if (forward := _forward(rollout, members, "gates passed")) is not None:
            return forward
        done, total = coverage_of(members)
        text = f"{done} of {quantity(total, 'device')} done, coverage target {rollout.coverage:.0%}"
    if now - rollout.stage_since >= timedelta(seconds=rollout.deadline_s):
        open_gates = [f"{v.gate}: {v.summary}" for v in required if v.outcome != Outcome.PROMOTE]
        return Transition(
            RolloutState.HELD, rollout.stage, "undecided at the deadline; " + "; ".join([text, *open_gates])
        )
    return None


def _harm(rollout: RolloutView, members: Sequence[MemberView], verdicts: Sequence[Verdict]) -> Transition | None:
    harmful = [v for v in verdicts if v.required and v.outcome == Outcome.ROLLBACK]
    if not harmful:
        return None
    reason = "; ".join(f"{v.gate}: {v.summary}{_why_rejected(rollout, members, v)}" for v in harmful)
    scopes = {v.scope for v in harmful}
    left = {m.device_class for m in members if m.status not in LEFT} - scopes
    if ALL_CLASSES in scopes or rollout.on_harm == "all" or not left:
        return Transition(RolloutState.ROLLED_BACK, rollout.stage, reason, (ALL_CLASSES,))
    return Transition(RolloutState.HELD, rollout.stage, f"{reason}; other classes held", tuple(sorted(scopes)))


def _why_rejected(rollout: RolloutView, members: Sequence[MemberView], verdict: Verdict) -> str:
    """The reasons behind a verdict on faults: once its devices are taken back, no list names them."""
    if verdict.gate != "faults":
        return ""
    rejected = (m for m in members if m.status == MemberStatus.REJECTED and m.wave == rollout.stage.wave)
    reasons = Counter(m.reason for m in rejected if m.reason and verdict.scope in (ALL_CLASSES, m.device_class))
    texts = [f"{count} x {reason_words(reason)}" for reason, count in reasons.most_common()]
    return f" ({', '.join(texts)})" if texts else ""


def _forward(rollout: RolloutView, members: Sequence[MemberView], why: str) -> Transition | None:
    """The next stage, or PROMOTED after the last when coverage is reached."""
    position = rollout.stages.index(rollout.stage)
    if position + 1 < len(rollout.stages):
        following = rollout.stages[position + 1]
        return Transition(RolloutState.RUNNING, following, f"{rollout.stage.title}: {why}")
    done, total = coverage_of(members)
    if not is_share(done, total, rollout.coverage):
        return None
    text = f"{done} of {quantity(total, 'device')} done, {why}"
    return Transition(RolloutState.PROMOTED, Stage(RolloutStage.DONE), text)


def _requested(rollout: RolloutView, members: Sequence[MemberView]) -> Transition | None:
    verb = rollout.requested
    if verb == "pause" and rollout.state in (RolloutState.RUNNING, RolloutState.HELD):
        return Transition(RolloutState.PAUSED, rollout.stage, "paused by operator")
    if verb == "resume" and rollout.state in (RolloutState.PAUSED, RolloutState.HELD):
        return Transition(RolloutState.RUNNING, rollout.stage, "resumed by operator")
    if verb == "approve" and rollout.state == RolloutState.PENDING:
        return Transition(RolloutState.RUNNING, rollout.stage, "approved")
    if verb == "retry" and rollout.state in (*LIVE, RolloutState.PROMOTED):
        again = sum(m.status == MemberStatus.REJECTED for m in members)
        text = f"{quantity(again, 'device')} to begin anew"
        return Transition(rollout.state, rollout.stage, text, retry=True) if again else None
    if verb == "promote" and rollout.state in LIVE and not rollout.frozen:
        return _forward(rollout, members, "promoted by operator") or Transition(
            RolloutState.PROMOTED, Stage(RolloutStage.DONE), "promoted by operator below the coverage target"
        )
    if verb == "abort" and rollout.state in OPEN:
        kept = sum(m.status == MemberStatus.CONFIRMED for m in members)
        keepers = quantity(kept, "confirmed device")
        reason = f"aborted by operator: {keepers} to keep it, the others return; undo returns all"
        return Transition(RolloutState.ABORTED, rollout.stage, reason, (ALL_CLASSES,), keep_confirmed=True)
    if verb == "undo" and rollout.state not in (RolloutState.PENDING, RolloutState.ROLLED_BACK):
        return Transition(RolloutState.ROLLED_BACK, rollout.stage, "undone by operator", (ALL_CLASSES,))
    return None


def taken_back(member: MemberView, transition: Transition, held_since: datetime | None = None) -> MemberView:
    """The member after a transition that undoes (rules 7, 10): touched devices go back, the others stay untouched.

    `held_since`: when a planned member was given the assignment that it holds still, from before a retry (rule 14).
    """
    if transition.retry:
        return begun_anew(member) if member.status == MemberStatus.REJECTED else member
    if not transition.undo or not ({ALL_CLASSES, member.device_class} & set(transition.undo)):
        return member
    if member.status in LEFT:
        return member
    if member.status == MemberStatus.PLANNED and held_since is not None:
        return replace(member, status=MemberStatus.UNDOING, assigned_at=held_since)
    if member.status == MemberStatus.PLANNED:
        return replace(member, status=MemberStatus.SKIPPED)
    if transition.keep_confirmed and member.status == MemberStatus.CONFIRMED:
        return member
    if not member.has_previous and _runs_candidate(member):
        return member  # nothing to go back to: it keeps what it has
    return replace(member, status=MemberStatus.UNDOING)


def _runs_candidate(member: MemberView) -> bool:
    """By what was last heard of it."""
    return member.status in ACTIVE or (member.status == MemberStatus.SILENT and member.activated_at is not None)


def begun_anew(member: MemberView) -> MemberView:
    """The member as if it had never been assigned (rule 14)."""
    return MemberView(member.device_id, member.device_class, member.wave, member.has_previous, member.silence_s)
