"""One schedule of a name, whoever else makes one at the same time and wherever an earlier call broke off.

Neither platform keeps names apart, and Kubeflow cannot change a schedule. So there a changed one is a new one with the
next revision; then all but one are deleted. Everyone keeps the same one: the highest revision, and of equal ones the
last that was made. Between the two steps both exist; a call that breaks off there is made good by the next one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pipelines.remote.errors import NotFoundError, RemoteError
from pipelines.remote.runs import Plan, Platform, Schedule

CREATED, UPDATED, UNCHANGED = "created", "updated", "unchanged"


def put(platform: Platform, plan: Plan) -> tuple[Schedule, str]:
    """Make the plan the one schedule of its name; says whether it was created, updated or is unchanged.

    A schedule that is paused stays so.

    Raises:
        RemoteError: one of this name was not made here, or someone set other settings at the same moment.
    """
    wanted = plan.digest(platform.cron(plan.cron))
    there = _ours(platform, plan.name)
    now = _standing(there)
    if now and now.settings == wanted:
        _sweep(platform, there, now)
        return now, UNCHANGED
    revision = now.revision + 1 if now else 1
    made = platform.change_schedule(now, plan, revision) if now else None
    if made is None:
        made = platform.create_schedule(plan, revision, paused=bool(now and not now.active))
    there = _ours(platform, plan.name)
    if made.id not in [schedule.id for schedule in there]:
        there.append(made)  # a list may lag behind; one who deleted it already has put a later one there
    stands = _standing(there) or made
    _sweep(platform, there, stands)
    if stands.settings != wanted:
        raise RemoteError(
            f"schedule {plan.name!r}: someone else set it to other settings at the same moment, and theirs stand "
            f"({stands.cron}, {stands.id}); run this again to set yours"
        )
    return stands, UPDATED if now else CREATED


def find(platform: Platform, name: str) -> Schedule:
    """The schedule of this name.

    Raises:
        NotFoundError: there is none.
        RemoteError: there are several that were not made here.
    """
    there = platform.schedules(name)
    if not there:
        raise NotFoundError(f"no schedule {name!r} (see: python -m pipelines schedule --list)")
    ours = [schedule for schedule in there if schedule.settings]
    if not ours and len(there) > 1:
        raise RemoteError(
            f"there are {len(there)} schedules {name!r}, none made by this command; use the platform's page"
        )
    return _standing(ours) or there[0]


def pause(platform: Platform, name: str) -> Schedule:
    """Pause the schedule of this name; that it is paused already is no error."""
    schedule = find(platform, name)
    if schedule.active:
        platform.pause(schedule)
    return replace(schedule, active=False)


def resume(platform: Platform, name: str, *, catchup: bool) -> Schedule:
    """Resume the schedule of this name; that it is not paused is no error."""
    schedule = find(platform, name)
    if not schedule.active:
        platform.resume(schedule, catchup=catchup)
    return replace(schedule, active=True)


def delete(platform: Platform, name: str) -> Schedule:
    """Delete the schedule of this name, and what an update that broke off left of it."""
    schedule = find(platform, name)
    for one in platform.schedules(name) if schedule.settings else [schedule]:
        if one.settings or one.id == schedule.id:
            platform.delete_schedule(one)
    return schedule


def _ours(platform: Platform, name: str) -> list[Schedule]:
    there = platform.schedules(name)
    foreign = next((schedule for schedule in there if not schedule.settings), None)
    if foreign:
        raise RemoteError(
            f"schedule {name!r}: there is one of this name that was not made by this command ({foreign.id}); delete it "
            "or choose another name"
        )
    return there


def _standing(schedules: Sequence[Schedule]) -> Schedule | None:
    """The one that everyone keeps."""
    return max(schedules, key=lambda one: one.rank, default=None)


def _sweep(platform: Platform, there: Sequence[Schedule], keep: Schedule) -> None:
    for one in there:
        if one.id != keep.id:
            platform.delete_schedule(one)
