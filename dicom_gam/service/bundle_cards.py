"""What a bundle says about itself, read without its weights: for people who want to know what judges their images."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path, PurePosixPath

from dicom_gam.bundle.files import BAD_ZIP, CHECKSUMS, MANIFEST, MODEL_CARD
from dicom_gam.bundle.manifest import Manifest, parse_manifest
from dicom_gam.core.measure import CHECKS
from dicom_gam.errors import BundleError

# The pictures that a bundle may hold for people, and what they show; nothing else in it is handed out.
PICTURES = {"training.png": "the course of the training"}
LARGEST_BYTES = 8 * 1024**2
_PNG = b"\x89PNG\r\n\x1a\n"
_Read = Callable[[str], bytes]


@dataclass(frozen=True, slots=True)
class ClassCard:
    """One class: its name, what its code means, the code, and the body parts that agree with it."""

    name: str
    meaning: str
    code: str
    body_parts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BundleCard:
    """A bundle as it describes itself. `source` is its name in the settings; `problem` is all there is when it is bad.

    `advisory` are the checks that are shown and decide nothing; `pictures` are among PICTURES.
    """

    source: str
    problem: str = ""
    name: str = ""
    version: str = ""
    digest: str = ""
    manufacturer: str = ""
    intended_use: str = ""
    architecture: str = ""
    classes: tuple[ClassCard, ...] = ()
    garbage_class: str = ""
    alpha: float = 0.0
    deciding: tuple[str, ...] = ()
    advisory: tuple[str, ...] = ()
    attention_method: str = ""
    attention_layer: str = ""
    early_layers: tuple[str, ...] = ()
    model_card: str = ""
    pictures: tuple[str, ...] = ()


def read_card(name_or_path: str) -> BundleCard:
    """Read a bundle's card by a built-in name, or the path of a folder or zip. Never raises: see `problem`.

    What is shown is checked against SHA256SUMS, whose digest names the bundle. The weights are not read: the node has
    checked them when it started.
    """
    try:
        with _opened(name_or_path) as read:
            stated = _stated(read(CHECKSUMS), name_or_path)
            manifest = parse_manifest(_checked(read, stated, MANIFEST).decode("utf-8", "replace"), name_or_path)
            words = _checked(read, stated, MODEL_CARD).decode("utf-8", "replace")
    except BundleError as error:
        return BundleCard(name_or_path, str(error))
    return _card(name_or_path, manifest, stated, words)


def read_picture(name_or_path: str, picture: str) -> bytes:
    """Read one of PICTURES, a PNG. Raises BundleError when the bundle has none such, or it is not what it should be."""
    if picture not in PICTURES:
        raise BundleError(f"{name_or_path}: {picture!r} is no picture that bundles hold ({', '.join(PICTURES)})")
    with _opened(name_or_path) as read:
        content = _checked(read, _stated(read(CHECKSUMS), name_or_path), picture)
    if not content.startswith(_PNG):
        raise BundleError(f"{name_or_path}: {picture} is not a PNG. Get the bundle again.")
    return content


def _card(source: str, manifest: Manifest, stated: dict[str, str], words: str) -> BundleCard:
    canonical = "".join(f"{stated[name]}  {name}\n" for name in sorted(stated))  # as bundle.files.checksums writes it
    return BundleCard(
        source=source,
        name=manifest.name,
        version=manifest.version,
        digest=hashlib.sha256(canonical.encode("utf-8")).hexdigest(),
        manufacturer=manifest.manufacturer,
        intended_use=manifest.intended_use,
        architecture=manifest.architecture,
        classes=tuple(
            ClassCard(c.name, c.concept.meaning, f"{c.concept.value}, {c.concept.scheme}", c.body_parts)
            for c in manifest.classes
        ),
        garbage_class=manifest.garbage_class,
        alpha=manifest.alpha,
        deciding=manifest.checks,
        advisory=tuple(check for check in CHECKS if check not in manifest.checks),
        attention_method=manifest.attention_method,
        attention_layer=manifest.attention_layer,
        early_layers=manifest.early_layers,
        model_card=words,
        pictures=tuple(name for name in PICTURES if name in stated),
    )


@contextmanager
def _opened(name_or_path: str) -> Iterator[_Read]:
    """Something that reads one file of the bundle by its name."""
    with as_file(files("dicom_gam") / "bundles") as built_in:
        inside = built_in / name_or_path
        path = inside if "/" not in name_or_path and inside.is_dir() else Path(name_or_path)
        if not path.is_file():
            yield lambda name: _from_folder(path, name)
            return
        try:
            archive = zipfile.ZipFile(path)
        except BAD_ZIP as error:
            raise BundleError(f"{path}: is neither a folder nor a readable zip ({error}). Get it again.") from error
        with archive:
            yield lambda name: _from_archive(archive, name)


def _from_folder(path: Path, name: str) -> bytes:
    try:
        with (path / name).open("rb") as file:
            content = file.read(LARGEST_BYTES + 1)
    except OSError as error:
        raise BundleError(f"{path}: {name} can't be read ({error.strerror}). Give a bundle's folder or zip.") from error
    if len(content) > LARGEST_BYTES:
        raise _too_large(name)
    return content


def _from_archive(archive: zipfile.ZipFile, name: str) -> bytes:
    member = next((m for m in archive.infolist() if PurePosixPath(m.filename).name == name), None)
    if member is None:
        raise BundleError(f"{archive.filename}: {name} is missing. The bundle is incomplete; get it again whole.")
    if member.file_size > LARGEST_BYTES:
        raise _too_large(name)
    try:
        with archive.open(member) as file:
            return file.read(LARGEST_BYTES)
    except BAD_ZIP as error:
        raise BundleError(f"{archive.filename}: {name} can't be read ({error}). Get the bundle again.") from error


def _checked(read: _Read, stated: dict[str, str], name: str) -> bytes:
    content = read(name)
    if hashlib.sha256(content).hexdigest() != stated.get(name):
        raise BundleError(f"{name} differs from its checksum: damaged or tampered with. Get the bundle again.")
    return content


def _stated(content: bytes, origin: str) -> dict[str, str]:
    lines = [line.partition("  ") for line in content.decode("utf-8", "replace").splitlines()]
    if not lines or not all(len(checksum) == 64 and name for checksum, _, name in lines):
        raise BundleError(f"{origin}: {CHECKSUMS} is not a list of checksums and file names. Get the bundle again.")
    return {name: checksum for checksum, _, name in lines}


def _too_large(name: str) -> BundleError:
    return BundleError(f"{name} is larger than {LARGEST_BYTES} bytes, which no bundle needs. Get the bundle again.")
