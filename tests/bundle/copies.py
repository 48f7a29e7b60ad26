"""Bundles that are wrong in one way and right in every other, checksums included."""

from __future__ import annotations

import io
import shutil
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dicom_gam.bundle.files import CHECKSUMS, checksums

Arrays = dict[str, NDArray[np.generic]]


def copy_of(bundle: Path, target: Path) -> Path:
    return Path(shutil.copytree(bundle, target / "copy"))


def with_changes(bundle: Path, target: Path, changes: Mapping[str, Callable[[bytes], bytes]]) -> Path:
    """A copy in which files were changed on purpose and the checksums made anew."""
    copy = copy_of(bundle, target)
    files = {path.name: path.read_bytes() for path in copy.iterdir() if path.name != CHECKSUMS}
    for name, change in changes.items():
        files[name] = change(files[name])
        (copy / name).write_bytes(files[name])
    (copy / CHECKSUMS).write_text(checksums(files))
    return copy


def arrays_changed(change: Callable[[Arrays], None], *, allow_pickle: bool = False) -> Callable[[bytes], bytes]:
    """A change of one npz file, array by array."""

    def rewrite(content: bytes) -> bytes:
        with np.load(io.BytesIO(content)) as archive:
            arrays: Arrays = {name: archive[name] for name in archive.files}
        change(arrays)
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=allow_pickle, **arrays)
        return buffer.getvalue()

    return rewrite


def zipped(bundle: Path, path: Path, folder: str = "") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(bundle.iterdir()):
            archive.write(file, folder + file.name)
    return path
