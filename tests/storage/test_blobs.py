import errno
import os
import shutil
from collections import namedtuple

import pytest
from blake3 import blake3

from dicom_gam.errors import StorageError
from dicom_gam.storage.blobs import FolderBlobs

NAME = "0123456789abcdef" * 2


@pytest.fixture
def blobs(tmp_path):
    return FolderBlobs(tmp_path / "inbox")


def files(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def test_what_was_written_is_read_back_with_its_size_and_digest(blobs):
    stored = blobs.write(NAME, (b"head", memoryview(b"body")))
    assert blobs.read(NAME) == b"headbody"
    assert (stored.size_bytes, stored.digest) == (8, blake3(b"headbody").hexdigest())
    assert list(blobs.names()) == [NAME]


def test_a_removed_blob_is_gone_and_removing_it_again_is_no_error(blobs):
    blobs.write(NAME, (b"x",))
    blobs.remove(NAME)
    blobs.remove(NAME)
    assert list(blobs.names()) == []


@pytest.mark.parametrize("name", ["../../x", "/etc/x", "", "1.2.3", "ABCDEF" * 8, "a" * 31, "a" * 65, f"{NAME}\n"])
def test_a_name_that_is_not_plain_hexadecimal_is_refused(blobs, tmp_path, name):
    with pytest.raises(StorageError, match="no name for a blob"):
        blobs.write(name, (b"x",))
    assert files(tmp_path) == []


def test_files_are_for_the_service_alone(blobs):
    path = blobs.write(NAME, (b"x",)).path
    assert path.stat().st_mode & 0o077 == 0
    assert path.parent.stat().st_mode & 0o077 == 0


def test_short_writes_of_the_system_are_carried_on_with(blobs, monkeypatch):
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, view: real(fd, view[:3]))
    assert blobs.write(NAME, (b"0123456789",)).size_bytes == 10
    assert blobs.read(NAME) == b"0123456789"


@pytest.mark.requirement("STO-04")
def test_a_disk_that_fills_up_after_a_short_write_leaves_nothing(blobs, tmp_path, monkeypatch):
    real, calls = os.write, []

    def fills_up(fd, view):
        calls.append(len(view))
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(fd, view[:4])

    monkeypatch.setattr(os, "write", fills_up)
    with pytest.raises(StorageError, match=r"No space left on device.*free some space"):
        blobs.write(NAME, (b"0123456789",))
    assert calls == [10, 6]
    assert files(tmp_path) == []


@pytest.mark.requirement("STO-04")
@pytest.mark.parametrize("step", ["fsync", "rename"])
def test_a_failure_at_any_later_step_leaves_nothing(blobs, tmp_path, monkeypatch, step):
    def fails(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, step, fails)
    with pytest.raises(StorageError, match="Input/output error"):
        blobs.write(NAME, (b"0123456789",))
    assert files(tmp_path) == []


@pytest.mark.requirement("STO-01")
def test_a_folder_that_can_not_be_synced_takes_the_file_back(blobs, tmp_path, monkeypatch):
    blobs.write("f" * 32, (b"x",))
    real = os.fsync

    def only_files(fd):
        if os.path.isdir(f"/proc/self/fd/{fd}"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(fd)

    monkeypatch.setattr(os, "fsync", only_files)
    with pytest.raises(StorageError):
        blobs.write("f" * 31 + "e", (b"y",))
    assert [path.stem for path in files(tmp_path)] == ["f" * 32]


@pytest.mark.requirement("STO-01")
def test_file_and_folder_are_synced_in_the_right_order(blobs, monkeypatch):
    order = []
    real_sync, real_rename = os.fsync, os.rename

    def sync(fd):
        order.append("folder" if os.path.isdir(f"/proc/self/fd/{fd}") else "file")
        real_sync(fd)

    def rename(a, b):
        order.append("rename")
        real_rename(a, b)

    blobs.write("0" * 32, (b"x",))  # makes the sub-folder
    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "rename", rename)
    blobs.write("0" * 31 + "1", (b"x",))
    assert order == ["file", "rename", "folder"]


def test_the_watermark_refuses_before_the_disk_is_full(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1000, 901, 99))
    with pytest.raises(StorageError, match=r"only 99 bytes are free.*minimum_free_bytes"):
        FolderBlobs(tmp_path / "inbox", minimum_free_bytes=100).begin(NAME)


def test_a_long_write_that_comes_to_the_watermark_is_ended_and_leaves_nothing(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    left = [10**9]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 0, left[0]))
    blobs = FolderBlobs(tmp_path / "inbox", minimum_free_bytes=100)
    part = bytes(1024**2)

    def parts():
        for _ in range(20):
            yield part
            left[0] = 50

    with pytest.raises(StorageError, match="only 50 bytes are free"):
        blobs.write(NAME, parts())
    assert files(tmp_path) == []


@pytest.mark.requirement("STO-03")
def test_a_blob_is_written_part_by_part_and_not_seen_before_it_is_whole(blobs, tmp_path):
    writer = blobs.begin(NAME)
    writer.write(b"head")
    assert list(blobs.names()) == []
    writer.write(memoryview(b"body"))
    assert writer.commit().digest == blake3(b"headbody").hexdigest()
    writer.abandon()
    assert blobs.read(NAME) == b"headbody"


def test_an_abandoned_blob_leaves_nothing(blobs, tmp_path):
    writer = blobs.begin(NAME)
    writer.write(b"head")
    writer.abandon()
    writer.abandon()
    assert files(tmp_path) == []


def test_a_linked_blob_outlives_the_one_it_was_linked_from(blobs):
    blobs.write(NAME, (b"x",))
    other = "f" * 32
    blobs.link(NAME, other)
    blobs.remove(NAME)
    assert blobs.read(other) == b"x"
    with pytest.raises(StorageError, match="can't be kept"):
        blobs.link(NAME, "e" * 32)


@pytest.mark.requirement("STO-03")
def test_the_sweep_removes_what_an_interrupted_write_left_and_nothing_else(blobs, tmp_path):
    blobs.write(NAME, (b"x",))
    (tmp_path / "inbox" / "incoming" / f"{NAME}-1234").write_bytes(b"half")
    assert blobs.sweep() == 1
    assert [path.stem for path in files(tmp_path)] == [NAME]


def test_reading_what_is_not_there_is_a_storage_error(blobs):
    with pytest.raises(StorageError, match="No such file"):
        blobs.read(NAME)
