"""The nodes that the fault matrix is shown on, and the record of what was observed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pynetdicom.transport import ThreadedAssociationServer

from dicom_gam.config import Settings, settings_from
from tests.faults.nodes import NodeProcess, table_of
from tests.faults.table import ROWS_FILE
from tests.service.fakes import Archive

_OBSERVED = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "fault(name, demand): a row of the fault matrix")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    path = os.environ.get(ROWS_FILE)
    if path and report.when == "call" and report.passed:
        for mark in item.iter_markers("fault"):
            row = {
                "fault": mark.args[0],
                "observed": "; ".join(item.stash.get(_OBSERVED, [])),
                "test": f"{Path(item.fspath).stem}::{item.name.split('[')[0]}",
            }
            with open(path, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
    return report


@pytest.fixture
def observed(request: pytest.FixtureRequest) -> Iterator[Callable[[str], None]]:
    """Call it with what really happened; a test of the matrix that says nothing fails."""
    said: list[str] = []
    request.node.stash[_OBSERVED] = said
    yield said.append
    report_failed = request.session.testsfailed
    assert said or report_failed, "a row of the fault matrix needs observed(...)"


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
    """Settings of a node in this very process."""

    def make(*archives: tuple[str, int], **changes: dict[str, Any]) -> Settings:
        return settings_from(table_of(tmp_path / "node", *archives, **changes))

    return make


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    """A node as a process of its own, with two receiver processes, short deadlines and the fake processor."""
    node = NodeProcess(tmp_path_factory.mktemp("door"), node={"receivers": 2, "network_timeout_s": 3.0})
    try:
        node.start()
        yield node
    finally:
        node.kill()
