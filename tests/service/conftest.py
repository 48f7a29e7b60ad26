from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pynetdicom.transport import ThreadedAssociationServer

from dicom_gam.config import Settings, settings_from
from dicom_gam.service.node import Node
from tests.service.fakes import Archive, process


@pytest.fixture(autouse=True)
def servers_stop_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """pynetdicom's servers look twice a second whether they should stop, which adds up over many tests."""
    serve = ThreadedAssociationServer.serve_forever
    monkeypatch.setattr(ThreadedAssociationServer, "serve_forever", lambda server: serve(server, 0.02))


@pytest.fixture
def archive() -> Iterator[Archive]:
    with Archive() as opened:
        yield opened


@pytest.fixture
def settings(tmp_path: Path) -> Callable[..., Settings]:
    """Settings of a quick node; `archives` are (name, port) pairs, `changes` go over the rest by section."""

    def make(*archives: tuple[str, int], **changes: dict[str, Any]) -> Settings:
        table: dict[str, Any] = {
            "node": {
                "port": 0,
                "storage": tmp_path / "node",
                "minimum_free_bytes": 0,
                "network_timeout_s": 20,
                "receivers": 0,
            },
            "processing": {"batch_size": 4, "batch_wait_ms": 5},
            "delivery": {"first_retry_s": 0.1, "maximum_retry_s": 0.4, "attempts": 50},
            "destinations": [
                {"name": name, "ae_title": "PACS", "host": "127.0.0.1", "port": port, "timeout_s": 5}
                for name, port in archives
            ],
        }
        for section, values in changes.items():
            table[section] = table[section] | values
        return settings_from(table)

    return make


@pytest.fixture
def node(settings: Callable[..., Settings]) -> Iterator[Node]:
    """A running node without destinations."""
    with Node(settings(), process) as running:
        yield running
