"""The followers of the audit log that a node's settings ask for."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from dicom_gam.service.atna.sender import AtnaSender
from dicom_gam.service.audit_follower import AuditFollower
from dicom_gam.service.notifications import Notifier, notifies

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dicom_gam.config import Settings
    from dicom_gam.service.store import Store

GRACE_S = 5.0  # what is not handed on by then is at the next start


def make_followers(settings: Settings, store: Store) -> list[AuditFollower]:
    """Make them, before the node's start goes on record: what is recorded from now on is what a new one hands on.

    Raises ConfigError when a file that the settings name can't be used, StorageError or AuditError.
    """
    followers = []
    if settings.atna.host is not None:
        sender = AtnaSender(settings, store)
        followers.append(AuditFollower("atna", store.folder, sender.send, then=sender.tend, closing=sender.close))
    if notifies(settings.notifications):
        notifier = Notifier(settings)
        followers.append(
            AuditFollower(
                "notifications", store.folder, notifier.note, then=notifier.tell, trouble=notifier.note_unreadable
            )
        )
    return followers


@contextmanager
def following(settings: Settings, store: Store) -> Iterator[Sequence[AuditFollower]]:
    """Have them follow the log as long as the block runs, and then hand on what has come last."""
    followers = make_followers(settings, store)
    for follower in followers:
        follower.loop.start()
    try:
        yield followers
    finally:
        for follower in followers:
            follower.loop.stop()
        for follower in followers:
            follower.loop.join(GRACE_S)
            follower.finish(GRACE_S)
