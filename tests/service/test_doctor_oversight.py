from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dicom_gam.config import settings_from
from dicom_gam.service.doctor_case import Case, Level
from dicom_gam.service.doctor_oversight import WAITING_MANY, check_notifications, check_repository
from dicom_gam.service.store import open_store
from tests.service.mail_server import MailServer


@pytest.fixture
def case(tmp_path: Path) -> Callable[..., Case]:
    def make(**sections: Any) -> Case:
        return Case(settings_from({"node": {"storage": tmp_path / "node", "minimum_free_bytes": 0}} | sections))

    return make


def test_what_is_not_configured_is_said(case: Callable[..., Case]) -> None:
    (repository,), (notifications,) = list(check_repository(case())), list(check_notifications(case()))
    assert (repository.level, notifications.level) == (Level.OK, Level.OK)
    assert "nobody is told" in notifications.found


@pytest.mark.requirement("ATN-09")
def test_a_repository_that_is_away_is_a_failure_that_names_it(case: Callable[..., Case]) -> None:
    (finding,) = check_repository(case(atna={"host": "127.0.0.1", "port": 1}))
    assert finding.level is Level.FAIL
    assert "the audit record repository 127.0.0.1:1 can't be reached" in finding.found


@pytest.mark.requirement("ATN-09")
def test_many_records_that_wait_are_a_warning(case: Callable[..., Case]) -> None:
    made = case(atna={"host": "127.0.0.1", "port": 1, "transport": "udp"})
    with open_store(made.settings, create=True) as store:
        store.audit.extend([("thing.happened", {})] * (WAITING_MANY + 1))
    place = {"number": 1, "segment": 1, "offset": 0}
    (made.folder / "follower-atna.json").write_text(json.dumps(place))
    reached, behind = check_repository(made)
    assert (reached.level, behind.level, behind.remedy) == (Level.OK, Level.WARN, "start the node")


def test_a_mail_server_is_greeted_and_sent_nothing(case: Callable[..., Case]) -> None:
    mail = {"smtp_host": "localhost", "smtp_tls": "none", "mail_from": "a@b.example", "mail_to": ["c@d.example"]}
    with MailServer() as server:
        (finding,) = check_notifications(case(notifications=mail | {"smtp_port": server.port}))
        assert (finding.level, server.mails) == (Level.OK, [])
    (finding,) = check_notifications(case(notifications=mail | {"smtp_port": server.port}))
    assert finding.level is Level.FAIL


def test_a_webhook_without_its_file_is_a_failure_that_names_the_file(case: Callable[..., Case], tmp_path: Path) -> None:
    (finding,) = check_notifications(case(notifications={"webhook_url_file": tmp_path / "url"}))
    assert finding.level is Level.FAIL
    assert str(tmp_path / "url") in finding.found
