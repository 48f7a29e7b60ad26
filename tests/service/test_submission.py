from __future__ import annotations

import io
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from dicom_gam.errors import StorageError
from dicom_gam.records import Reason, Rejection
from dicom_gam.service.node import Node
from dicom_gam.service.store import Store, open_store
from dicom_gam.service.submission import SUBMITTER, BrokenOffError, NoRoomError, TooLargeError, submit
from dicom_gam.storage.rows import Receipt, ReceiptKind
from dicom_gam.storage.states import JobState
from tests.service.fakes import TORN_CONNECTIONS, events, image, inbox_files, process, save, storescu, uids
from tests.web.made_site import CR
from tests.web.part10 import part10

pytestmark = TORN_CONNECTIONS
OVERLAY = "1.2.840.10008.5.1.4.1.1.7"


@pytest.fixture
def configured(settings):
    return settings()


@pytest.fixture
def opened(configured):
    with open_store(configured, create=True) as store:
        yield store


def hand_in(store: Store, configured, content: bytes, **keys) -> Receipt | Rejection:
    return submit(store, configured, io.BytesIO(content), by="anna", peer_address="10.0.0.9", **keys)


def left_in(configured) -> list[Path]:
    return [path for path in (configured.node.storage / "inbox").rglob("*") if path.is_file()]


@pytest.mark.requirement("API-01")
def test_a_submitted_file_is_a_job_like_any_other_and_the_record_says_who_handed_it_in(configured, opened):
    receipt = hand_in(opened, configured, part10("1.2.3.4"))
    assert receipt.kind is ReceiptKind.NEW
    job = opened.jobs.get(receipt.job_id)
    assert (job.state, job.instance.sop_instance_uid, job.instance.sop_class_uid) == (
        JobState.RECEIVED, "1.2.3.4", CR
    )  # fmt: skip
    assert (job.instance.calling_ae_title, job.instance.peer_address) == (SUBMITTER, "10.0.0.9")
    (record,) = events(configured, "instance.stored")
    assert record["by"] == "anna"
    assert record["job_id"] == receipt.job_id
    assert job.instance.path.read_bytes() == part10("1.2.3.4")


@pytest.mark.requirement("API-02")
def test_an_image_that_came_by_c_store_is_known_when_the_same_file_is_submitted(configured, tmp_path):
    path = save(image(*uids(1)), tmp_path / "a.dcm")
    with Node(configured, process) as node, open_store(configured) as store:
        assert storescu(node.port, path, options=("-xe",)).returncode == 0
        assert node.wait_idle(10)
        (job,) = node.jobs()
        receipt = hand_in(store, configured, path.read_bytes())
        assert receipt == Receipt(ReceiptKind.DUPLICATE, job.job_id)
        assert len(node.jobs()) == 1
    assert len(inbox_files(configured)) == 1
    assert [record["by"] for record in events(configured, "instance.duplicate")] == ["anna"]


@pytest.mark.requirement("API-01")
def test_a_running_node_works_on_what_is_submitted(configured, tmp_path):
    path = save(image(*uids(1)), tmp_path / "a.dcm")
    with Node(configured, process) as node, open_store(configured) as store:
        receipt = hand_in(store, configured, path.read_bytes())
        assert node.wait_idle(10)
        assert node.jobs()[0].job_id == receipt.job_id
        assert node.jobs()[0].state is JobState.DONE
    (kept,) = inbox_files(configured)
    assert subprocess.run(["dcmdump", "+P", "0002,0003", str(kept)], capture_output=True, check=True).stderr == b""


@pytest.mark.requirement("API-02")
def test_other_bytes_under_the_same_uid_are_quarantined(configured, opened):
    hand_in(opened, configured, part10("1.2.3.4"))
    receipt = hand_in(opened, configured, part10("1.2.3.4", shade=9))
    assert receipt.kind is ReceiptKind.CONFLICT
    assert opened.jobs.get(receipt.job_id).state is JobState.QUARANTINED


@pytest.mark.requirement("API-03")
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", Reason.UNREADABLE),
        (b"GIF89a" * 1000, Reason.UNREADABLE),
        (part10("1.2.3.4")[:140], Reason.UNREADABLE),
        (part10("1.2.3.4")[:300][: part10("1.2.3.4").index(b"\x08\x00\x16\x00UI", 260)], Reason.UNREADABLE),
        (part10("1.2.3.4").replace(b"1.2.840.10008.1.2.1", b"1.2.840.10008.9.9.9"), Reason.UNSUPPORTED_TRANSFER_SYNTAX),
        (part10("1.2.3.x"), Reason.INVALID_ATTRIBUTES),
        (part10("1.2.3.4").replace(b"1.2.3.4", b"1.2.3.5", 1), Reason.INVALID_ATTRIBUTES),
        (part10("1.2.3.4", sop_class_uid="1.2.840.10008.5.1.4.1.1.2"), Reason.NOT_ACCEPTED_SOP_CLASS),
        (
            part10("1.2.3.4", sop_class_uid=OVERLAY, image_type=b"DERIVED\\SECONDARY\\OTHER\\GRADCAM"),
            Reason.OWN_RESULT,
        ),
    ],
    ids=["empty", "gif", "cut meta", "no data set", "syntax", "uid", "two uids", "ct", "own"],
)
def test_what_is_no_radiograph_is_refused_by_name_and_leaves_nothing(configured, opened, content, reason):
    refusal = hand_in(opened, configured, content)
    assert isinstance(refusal, Rejection)
    assert refusal.reason is reason
    assert left_in(configured) == []
    assert opened.jobs.jobs() == []
    (record,) = events(configured, "instance.refused")
    assert (record["by"], record["reason"]) == ("anna", reason.value)


@pytest.mark.requirement("API-03")
def test_our_own_overlay_is_not_taken_in(configured, opened, tmp_path, archive, settings):
    """A real one, as a node makes it."""
    with_archive = settings(("pacs", archive.port))
    path = save(image(*uids(1)), tmp_path / "a.dcm")
    with Node(with_archive, process) as node:
        storescu(node.port, path, options=("-xe",))
        assert node.wait_idle(10)
    made = [path.read_bytes() for path in (with_archive.node.storage / "results").rglob("*.dcm")]
    for content in made:
        assert isinstance(hand_in(opened, configured, content), Rejection)
    assert made


@pytest.mark.requirement("API-04")
def test_a_file_above_the_limit_leaves_nothing(settings):
    configured = settings(node={"maximum_instance_bytes": 1024**2})
    with open_store(configured, create=True) as store:
        with pytest.raises(TooLargeError, match="maximum_instance_bytes"):
            hand_in(store, configured, part10("1.2.3.4") + bytes(1024**2))
        assert store.jobs.jobs() == []
    assert left_in(configured) == []


@pytest.mark.requirement("API-04")
def test_a_disk_with_too_little_left_refuses_before_anything_is_read(settings):
    configured = settings(node={"minimum_free_bytes": 1000})

    class Unread:
        def read(self, size: int) -> bytes:
            raise AssertionError

    with open_store(configured, create=True) as store, pytest.raises(NoRoomError, match="minimum_free_bytes"):
        submit(store, configured, Unread(), by="anna", peer_address="", free=lambda _: 999)


@pytest.mark.requirement("API-04")
def test_a_connection_that_breaks_off_leaves_nothing(configured, opened):
    class Broken:
        def __init__(self) -> None:
            self._parts = [part10("1.2.3.4") + bytes(200_000), b"more"]

        def read(self, size: int) -> bytes:
            if not self._parts:
                raise ConnectionResetError
            part, self._parts[0] = self._parts[0][:size], self._parts[0][size:]
            if not self._parts[0]:
                self._parts.pop(0)
            return part

    with pytest.raises(ConnectionResetError):
        submit(opened, configured, Broken(), by="anna", peer_address="")
    assert left_in(configured) == []
    assert opened.jobs.jobs() == []
    assert hand_in(opened, configured, part10("1.2.3.4")).kind is ReceiptKind.NEW  # no lock is left behind


@pytest.mark.requirement("API-04")
@pytest.mark.parametrize("announced", [0, 1, 10**6])
def test_a_file_that_is_shorter_or_longer_than_announced_leaves_nothing(configured, opened, announced):
    """Some servers take a connection that breaks for the end of the body."""
    with pytest.raises(BrokenOffError, match="announced"):
        hand_in(opened, configured, part10("1.2.3.4"), announced_bytes=announced)
    assert left_in(configured) == []
    assert opened.jobs.jobs() == []


def test_without_the_right_to_write_into_the_inbox_nothing_is_taken_in(configured, opened, monkeypatch):
    def refuse(folder: Path) -> int:
        raise StorageError("intake.lock can't be locked")

    monkeypatch.setattr("dicom_gam.service.submission.hold_intake", refuse)
    with pytest.raises(StorageError, match=r"intake\.lock"):
        hand_in(opened, configured, part10("1.2.3.4"))
    assert left_in(configured) == []


@pytest.mark.requirement("API-03")
def test_no_damage_to_a_file_makes_more_than_a_job_or_a_refusal(configured, opened):
    whole = part10("1.2.3.4")

    @hypothesis_settings(max_examples=150, derandomize=True, database=None, deadline=None)
    @given(st.integers(0, len(whole) - 1), st.binary(min_size=1, max_size=8), st.integers(0, len(whole)))
    def attempt(place: int, damage: bytes, end: int) -> None:
        hand_in(opened, configured, (whole[:place] + damage + whole[place + len(damage) :])[: max(end, place)])

    attempt()
