"""A bundle's files on disk: which there must be, their checksums, and the digest that names the whole."""

from __future__ import annotations

import hashlib
import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from dicom_gam.errors import BundleError

MANIFEST = "bundle.toml"
WEIGHTS = "weights.safetensors"
REFERENCE = "reference.npz"
CALIBRATION = "calibration.npz"
MODEL_CARD = "MODEL_CARD.md"
CHECKSUMS = "SHA256SUMS"
REQUIRED = (MANIFEST, WEIGHTS, REFERENCE, CALIBRATION, MODEL_CARD)
BAD_ZIP = (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, RuntimeError)  # all that zipfile may raise
LARGEST_FILE = 8 * 1024**3  # no member of a zipped bundle may claim more


def read_files(path: Path) -> dict[str, bytes]:
    """Read every file of a bundle, a directory or a zip of one, and check it against SHA256SUMS.

    Raises BundleError that names the file and the reason for anything damaged, missing, added or changed.
    """
    files = _from_zip(path) if path.is_file() else _from_directory(path)
    if CHECKSUMS not in files:
        raise BundleError(
            f"{path}: {CHECKSUMS} is missing, so nothing in the bundle can be trusted. Get it again whole."
        )
    stated = _parse_checksums(files[CHECKSUMS], path)
    for name in sorted({*REQUIRED, *stated} - files.keys()):
        raise BundleError(f"{path}: {name} is missing. The bundle is incomplete; get it again whole.")
    for name in sorted(files.keys() - {CHECKSUMS}):
        if name not in stated:
            raise BundleError(f"{path}: {name} is not listed in {CHECKSUMS}. Remove it, or get the bundle again.")
        if hashlib.sha256(files[name]).hexdigest() != stated[name]:
            raise BundleError(
                f"{path}: {name} differs from its checksum: damaged or tampered with. Get the bundle again."
            )
    return files


def write_files(path: Path, files: Mapping[str, bytes]) -> None:
    """Write a new bundle directory with its SHA256SUMS. Raises BundleError if something is there already."""
    if path.exists() and any(path.iterdir()):
        raise BundleError(f"{path}: is not empty. Bundles are immutable; choose a new folder.")
    path.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (path / name).write_bytes(content)
    (path / CHECKSUMS).write_text(checksums(files), encoding="ascii")


def checksums(files: Mapping[str, bytes]) -> str:
    """The text of SHA256SUMS, as sha256sum writes it, sorted by name."""
    return "".join(
        f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in sorted(files) if name != CHECKSUMS
    )


def digest(files: Mapping[str, bytes]) -> str:
    """The bundle's digest: SHA-256 of the text of its SHA256SUMS, so every byte of every file counts."""
    return hashlib.sha256(checksums(files).encode("ascii")).hexdigest()


def _from_directory(path: Path) -> dict[str, bytes]:
    if not path.is_dir():
        raise BundleError(
            f"{path}: there is no such bundle. Give a bundle's folder or zip, or a built-in bundle's name."
        )
    try:
        return {entry.name: entry.read_bytes() for entry in sorted(path.iterdir()) if entry.is_file()}
    except OSError as error:
        raise BundleError(
            f"{path}: {os.path.basename(error.filename or '')} can't be read: {error.strerror}"
        ) from error


def _from_zip(path: Path) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = [m for m in archive.infolist() if not m.is_dir()]
            if any(m.file_size > LARGEST_FILE for m in members):
                raise BundleError(f"{path}: holds a file of more than {LARGEST_FILE} bytes, which no bundle needs.")
            folders = {PurePosixPath(m.filename).parent for m in members}
            if len(folders) > 1:
                raise BundleError(f"{path}: a zipped bundle holds the files of one folder; this holds {len(folders)}.")
            return {PurePosixPath(m.filename).name: archive.read(m) for m in members}
    except BAD_ZIP as error:
        raise BundleError(f"{path}: is neither a folder nor a readable zip ({error}). Get the bundle again.") from error


def _parse_checksums(content: bytes, path: Path) -> dict[str, str]:
    stated = {}
    for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), 1):
        checksum, _, name = line.partition("  ")
        if len(checksum) != 64 or not name or "/" in name:
            raise BundleError(
                f"{path}: {CHECKSUMS} line {number} is not a checksum and a file name. Get the bundle again."
            )
        stated[name] = checksum
    return stated
