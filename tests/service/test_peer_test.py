"""Trying a destination by hand, against real peers."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file

from dicom_gam.config import Settings, settings_from
from dicom_gam.dicom.result.result_file import result_file_bytes
from dicom_gam.errors import ConfigError, DeliveryError
from dicom_gam.service.effective_settings import masked
from dicom_gam.service.operations import Order
from dicom_gam.service.peer_test import make_test_object, say_hello, send_test_object
from dicom_gam.service.rule_trial import Trial, try_rules
from dicom_gam.service.store import Store, open_store
from tests.service.fakes import TORN_CONNECTIONS, Archive, events, free_port

pytestmark = TORN_CONNECTIONS
ORDER = Order("anna", address="10.0.0.9")


@pytest.fixture
def opened(settings: Callable[..., Settings], archive: Archive) -> Iterator[tuple[Store, Settings]]:
    made = settings(("pacs", archive.port), ("nobody", free_port()))
    with open_store(made, create=True) as store:
        yield store, made


@pytest.mark.requirement("WEB-07")
def test_hello_is_answered_in_words_by_who_is_there_and_who_is_not_and_is_on_record(opened):
    well = say_hello(*opened, "pacs", ORDER)
    assert well.well
    assert well.words.startswith("pacs answers C-ECHO")
    nobody = say_hello(*opened, "nobody", ORDER)
    assert not nobody.well
    assert "can't be reached" in nobody.words
    greeted = {"destination": "pacs", "by": "anna", "address": "10.0.0.9"}
    assert events(opened[1], "destination.greeted") == [greeted, greeted | {"destination": "nobody"}]
    with pytest.raises(ConfigError, match="there is no destination 'x'"):
        say_hello(*opened, "x", ORDER)


@pytest.mark.requirement("WEB-07")
def test_a_test_object_arrives_as_a_test_of_no_patient_and_its_answer_is_on_record(opened, archive):
    answer = send_test_object(*opened, "pacs", ORDER)
    assert answer.well
    assert list(archive.received) == [answer.sop_instance_uid]
    archive.status = 0xA700
    refused = send_test_object(*opened, "pacs", ORDER)
    assert not refused.well
    assert "A700" in refused.words
    assert not send_test_object(*opened, "nobody", ORDER).well
    tested, answered = (events(opened[1], f"destination.{what}") for what in ("tested", "test_answered"))
    assert [record["by"] for record in tested] == ["anna"] * 3
    assert [record["stored"] for record in answered] == [True, False, False]
    assert tested[0]["sop_instance_uid"] == answered[0]["sop_instance_uid"] == answer.sop_instance_uid


@pytest.mark.requirement("WEB-07")
def test_the_test_object_is_sound_says_that_it_is_a_test_and_is_never_the_same_twice(tmp_path):
    now = datetime(2025, 3, 4, 5, 6, 7, tzinfo=UTC)
    content = result_file_bytes(make_test_object(now))
    ds = dcmread(io.BytesIO(content))
    assert (ds.PatientID, ds.QualityControlSubject, ds.Modality) == ("DICOM-GAM-TEST", "YES", "OT")
    assert ds.pixel_array.std() > 5  # there is something to see
    assert ds.SOPInstanceUID != make_test_object(now).SOPInstanceUID
    path = tmp_path / "test.dcm"
    path.write_bytes(content)
    checked = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)
    assert "Error" not in checked.stderr, checked.stderr


def test_what_a_url_holds_of_user_and_password_is_never_said(opened):
    store, settings = opened
    table = settings.model_dump(mode="json", exclude_unset=True)
    table["destinations"] = [{"name": "web", "url": f"http://user:hunter2@127.0.0.1:{free_port()}/dicom-web"}]
    answer = say_hello(store, settings_from(table), "web", ORDER)
    assert not answer.well
    assert "***@127.0.0.1" in answer.words
    assert "hunter2" not in answer.words
    assert masked("see https://a:b@c/d and http://e/f") == "see https://***@c/d and http://e/f"


def test_a_sender_that_breaks_off_is_told_in_words(opened):
    def raises(*_: object) -> Iterator[object]:
        raise DeliveryError("the pipe broke")

    assert send_test_object(*opened, "pacs", ORDER, send=raises).words == "the pipe broke"
    assert "without an answer" in send_test_object(*opened, "pacs", ORDER, send=lambda *_: iter(())).words


RULES = {
    "destinations": [{"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": 104}],
    "rules": [
        {"name": "no hands", "when": {"body_part_examined": ["HAND"]}, "process": False},
        {"name": "emergency", "when": {"modality": ["CR"], "calling_ae_title": ["ER*"]}, "bundle": "site"},
        {"name": "rest"},
    ],
}


@pytest.mark.requirement("WEB-08")
def test_the_rules_are_tried_on_a_file_in_a_process_of_its_own_and_say_why_not():
    with Path(get_testdata_file("RG1_UNCR.dcm", download=False)).open("rb") as file:
        trial = try_rules(settings_from(RULES), file, calling="ER_2")
    assert (trial.rule, trial.bundle, trial.destinations) == ("emergency", "site", ("pacs",))
    assert [(rule.name, rule.matched, rule.counts) for rule in trial.rules] == [
        ("no hands", False, False),
        ("emergency", True, True),
        ("rest", True, False),
    ]
    [key] = trial.rules[0].keys
    assert (key.key, key.found, key.patterns, key.matched) == ("body_part_examined", ("CHEST",), ("HAND",), False)


@pytest.mark.requirement("WEB-08")
def test_a_file_that_harms_its_reader_harms_only_that_process():
    quick = settings_from(RULES | {"decoding": {"memory_bytes": 256 * 1024**2}})
    assert "not a DICOM file" in try_rules(quick, io.BytesIO(b"\0" * 1000)).unreadable
    died = try_rules(quick, io.BytesIO(b"x"), command=("/bin/sh", "-c", "kill -SEGV $$"))
    assert died == Trial(unreadable="The file can't be read: the process that read it ended (SIGSEGV). It may need too "
                         "much memory.")  # fmt: skip
