"""Reading the log on and on, across its files."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dicom_gam.errors import AuditError
from dicom_gam.storage.audit import AuditLog, records
from dicom_gam.storage.audit_reader import START, AuditReader, Place
from dicom_gam.storage.audit_signing import Signer
from tests.storage.made_audit_log import MemoryHead, Ticking


@pytest.fixture
def path(tmp_path):
    return tmp_path / "audit.jsonl"


@pytest.fixture
def log(path):
    made = AuditLog(path, MemoryHead(), Ticking())
    made.sign_with(Signer(Ed25519PrivateKey.generate()), 600)
    for number in range(12):
        made.append("event", number=number)
    yield made
    made.close()


@pytest.mark.requirement("AUD-14")
@pytest.mark.parametrize("limit", [1, 3, 100])
def test_all_records_are_read_once_and_in_order_across_files(path, log, limit):
    reader, place, seen = AuditReader(path), START, []
    while (answer := reader.read(place, limit))[0]:
        assert len(answer[0]) <= limit
        seen += answer[0]
        place = answer[1]
    assert [(r.number, r.event, r.keys) for r in seen] == [(r["number"], r["event"], r["keys"]) for r in records(path)]
    assert len({record.place.segment for record in seen}) > 2


@pytest.mark.requirement("AUD-14")
def test_a_place_stays_right_when_its_file_is_closed_meanwhile(path, log):
    reader = AuditReader(path)
    found, end = reader.read(START, 1000)
    for number in range(12, 24):
        log.append("event", number=number)
    later, _ = reader.read(end, 1000)
    assert [record.number for record in later] == list(range(end.number, end.number + len(later)))
    assert [record.keys["number"] for record in later if record.event == "event"] == list(range(12, 24))
    for record in found:
        assert reader.read(record.place, 1)[0] == [record]


def test_a_half_written_record_is_left_for_the_next_time(path, log):
    reader = AuditReader(path)
    _, end = reader.read(START, 1000)
    with path.open("ab") as file:
        file.write(b'{"event":"ha')
    assert reader.read(end, 10) == ([], end)


@pytest.mark.parametrize("damage", ["gone", "cut", "no json", "other record", "half", "empty"])
def test_a_log_that_can_not_be_read_is_told_with_the_record_and_what_to_do(path, log, damage):
    first = path.with_name("audit-000000000001.jsonl")
    lines = first.read_bytes().splitlines(keepends=True)
    second = Place(2, 1, len(lines[0]))
    contents = {
        "cut": lines[0][:-5],
        "no json": lines[0] + b"{]\n",
        "other record": lines[0] * 2,
        "half": lines[0] + lines[1][:30],
        "empty": b"",
    }
    if damage == "gone":
        first.unlink()
    else:
        first.write_bytes(contents[damage])
    place = START if damage == "empty" else second
    with pytest.raises(AuditError, match=r"audit verify|backup") as caught:
        AuditReader(path).read(place, 10)
    assert caught.value.record == place.number


def test_a_log_that_is_not_there_is_told(tmp_path):
    with pytest.raises(AuditError, match="restore it from a backup"):
        AuditReader(tmp_path / "audit.jsonl").read(START, 1)
