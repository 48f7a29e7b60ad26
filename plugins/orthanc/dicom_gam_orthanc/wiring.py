"""Puts the parts together, and hands Orthanc its callbacks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orthanc

from .follower import Follower
from .host import Host
from .node import Node
from .panel import ADDRESS, Panel
from .settings import read_settings
from .study import Studies


def start(*, register_changes: bool = True) -> Any:
    """Start the plugin; returns what must be called with each change of Orthanc's.

    A script that has a change callback of its own says `register_changes=False`, and calls ours from it: Orthanc
    takes only one. Raises SettingsError, with which Orthanc refuses to start.
    """
    settings = read_settings(json.loads(orthanc.GetConfiguration()))
    host = Host()
    studies = Studies(host, settings)
    follower = Follower(host, settings, studies)
    panel = Panel(host, settings, studies, follower, Node(settings))
    orthanc.RegisterRestCallback(ADDRESS, panel.answer)
    orthanc.ExtendOrthancExplorer((Path(__file__).parent / "explorer.js").read_text(encoding="utf-8"))
    kinds = orthanc.ChangeType

    def on_change(kind: int, _level: int, _resource: str) -> None:
        if kind in (kinds.NEW_INSTANCE, kinds.STABLE_STUDY, kinds.UPDATED_METADATA):
            follower.wake()
        elif kind == kinds.ORTHANC_STARTED:
            follower.start()
        elif kind == kinds.ORTHANC_STOPPED:
            follower.stop()

    if register_changes:
        orthanc.RegisterOnChangeCallback(on_change)
    return on_change
