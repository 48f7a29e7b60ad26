"""Blobs as files in a folder: temporary file, looped write, size check, fsync, rename, fsync of the folder."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING

from blake3 import blake3

from dicom_gam.errors import StorageError
from dicom_gam.storage.rows import StoredBlob

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

_NAME = re.compile(r"[0-9a-f]{32,64}")
_TEMPORARY = "incoming"
_SUFFIX = ".dcm"
_CHECK_BYTES = 16 * 1024**2  # written between two looks at the free space


class FolderBlobs:
    """Blobs under `folder`, spread over 256 sub-folders by the first two letters of the name.

    A write that would leave less than `minimum_free_bytes` on the file system is refused before it begins.
    """

    def __init__(self, folder: Path, minimum_free_bytes: int = 0) -> None:
        self._folder = folder
        self._minimum_free_bytes = minimum_free_bytes
        try:
            (folder / _TEMPORARY).mkdir(mode=0o700, parents=True, exist_ok=True)
            sync_folder(folder.parent)
            sync_folder(folder)
        except OSError as error:
            raise _explained(error, f"the folder {folder} can't be made") from error

    def write(self, name: str, parts: Iterable[bytes | memoryview]) -> StoredBlob:
        """Write durably: all of it or nothing. Raises StorageError that names the cause."""
        writer = self.begin(name)
        try:
            for part in parts:
                writer.write(part)
            return writer.commit()
        finally:
            writer.abandon()

    def begin(self, name: str) -> FolderBlobWriter:
        """Start writing a blob part by part. Raises StorageError, such as when too little space is free."""
        final = self.path(name)
        self._check_free_space()
        temporary = self._folder / _TEMPORARY / f"{name}-{secrets.token_hex(4)}"
        return FolderBlobWriter(temporary, final, self._check_free_space)

    def link(self, name: str, new_name: str) -> Path:
        """Give the same bytes a second name, durably; each name is removed by itself. Raises StorageError."""
        source, target = self.path(name), self.path(new_name)
        try:
            _make_durable_folder(target.parent)
            os.link(source, target)
            _sync_or_take_back(target)
        except OSError as error:
            raise _explained(error, f"{source} can't be kept as {target.name}") from error
        return target

    def path(self, name: str) -> Path:
        """Where the blob lies. Raises StorageError for a name that is not 32 to 64 hexadecimal digits."""
        if not _NAME.fullmatch(name):
            msg = f"{name!r} is no name for a blob: names are hexadecimal digits that dicom_gam makes itself"
            raise StorageError(msg)
        return self._folder / name[:2] / f"{name}{_SUFFIX}"

    def read(self, name: str) -> bytes:
        """Return the bytes. Raises StorageError."""
        path = self.path(name)
        try:
            return path.read_bytes()
        except OSError as error:
            raise _explained(error, f"{path} can't be read") from error

    def remove(self, name: str) -> None:
        """Remove the blob; one that is not there is no error."""
        path = self.path(name)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise _explained(error, f"{path} can't be removed") from error

    def names(self) -> Iterator[str]:
        """Walk over all names, in no order."""
        for path in self._folder.glob(f"[0-9a-f][0-9a-f]/*{_SUFFIX}"):
            yield path.stem

    def sweep(self) -> int:
        """Remove what interrupted writes have left; return how many. Only for the one owner of the folder."""
        left = list((self._folder / _TEMPORARY).iterdir())
        for path in left:
            path.unlink()
        return len(left)

    def _check_free_space(self) -> None:
        if self._minimum_free_bytes == 0:
            return
        free = shutil.disk_usage(self._folder).free
        if free < self._minimum_free_bytes:
            msg = (
                f"{self._folder}: only {free} bytes are free, and node.minimum_free_bytes keeps "
                f"{self._minimum_free_bytes} back: free some space"
            )
            raise StorageError(msg)


class FolderBlobWriter:
    """`protocols.BlobWriter`: a temporary file that gets its name when it is whole.

    `check_space` raises StorageError when the disk has too little left; it is asked now and then.
    """

    def __init__(self, temporary: Path, final: Path, check_space: Callable[[], None]) -> None:
        self._temporary, self._final = temporary, final
        self._check_space = check_space
        self._check_at = _CHECK_BYTES
        self._digest = blake3()
        self._size = 0
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            self._descriptor = os.open(temporary, flags, 0o600)
        except OSError as error:
            raise _explained(error, f"{final} can't be written") from error

    def write(self, part: bytes | memoryview) -> None:
        """Append. Raises StorageError, such as for a full disk; then only `abandon` is left."""
        view = memoryview(part).cast("B")
        try:
            write_all(self._descriptor, view)
        except OSError as error:
            raise _explained(error, f"{self._final} can't be written") from error
        self._digest.update(view)
        self._size += len(view)
        if self._size >= self._check_at:
            self._check_at += _CHECK_BYTES
            self._check_space()

    def commit(self) -> StoredBlob:
        """Make it durable under its name. Raises StorageError; then nothing is left of it."""
        try:
            found = os.fstat(self._descriptor).st_size
            if found != self._size:
                raise OSError(errno.EIO, f"{found} bytes are in the file instead of {self._size}")
            os.fsync(self._descriptor)
            _make_durable_folder(self._final.parent)
            os.rename(self._temporary, self._final)
            _sync_or_take_back(self._final)
        except OSError as error:
            raise _explained(error, f"{self._final} can't be written") from error
        finally:
            self.abandon()
        return StoredBlob(self._final, self._size, self._digest.hexdigest())

    def abandon(self) -> None:
        """Remove what there is of it; never raises. After `commit` it does nothing."""
        if self._descriptor >= 0:
            with suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = -1
            with suppress(OSError):
                self._temporary.unlink()


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable: a rename alone does not survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_durably(path: Path, text: str) -> None:
    """Put a small file in the place of an older one, so that after a power cut one of the two is there, whole.

    Raises StorageError.
    """
    temporary = path.with_name(f"{path.name}.new")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise StorageError(f"{path} can't be written ({error.strerror}): see to the disk") from error


def write_all(descriptor: int, view: memoryview) -> None:
    """Write every byte: on a full disk the system writes short and says so only in the count."""
    while view:
        count = os.write(descriptor, view)
        if count == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        view = view[count:]


def _make_durable_folder(folder: Path) -> None:
    if not folder.exists():
        folder.mkdir(mode=0o700, exist_ok=True)
        sync_folder(folder.parent)


def _sync_or_take_back(final: Path) -> None:
    try:
        sync_folder(final.parent)
    except OSError:
        final.unlink(missing_ok=True)
        raise


def _explained(error: OSError, what: str) -> StorageError:
    remedies = {
        errno.ENOSPC: "free some space",
        errno.EDQUOT: "raise the quota or free some space",
        errno.EFBIG: "raise the limit on file sizes (ulimit -f)",
        errno.EACCES: "give the service's user the right to write there",
        errno.EROFS: "mount the file system for writing",
    }
    remedy = remedies.get(error.errno or 0, "see to the disk")
    return StorageError(f"{what} ({error.strerror}): {remedy}")
