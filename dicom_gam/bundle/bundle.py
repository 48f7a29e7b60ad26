"""Load a model bundle: checked, built, split, and ready to be shared by threads."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dicom_gam.bundle.architectures import build_network
from dicom_gam.bundle.files import BAD_ZIP, CALIBRATION, MANIFEST, MODEL_CARD, REFERENCE, WEIGHTS, digest, read_files
from dicom_gam.bundle.manifest import Manifest, parse_manifest
from dicom_gam.core.attention import explain
from dicom_gam.core.calibration import ClassCalibration, needed_size
from dicom_gam.core.measure import CHECKS, MEASUREMENTS, ClassReference, References, measure
from dicom_gam.core.network import SplitError, SplitNetwork
from dicom_gam.errors import BundleError
from dicom_gam.records import BundleIdentity


@dataclass(frozen=True, slots=True, eq=False)
class Bundle:
    """A loaded bundle on one device; immutable, safe to share between threads."""

    manifest: Manifest
    identity: BundleIdentity
    network: SplitNetwork
    references: References
    calibration: dict[int, ClassCalibration]
    device: torch.device
    model_card: str

    @property
    def alpha(self) -> float:
        """The total false-alarm rate of the bundle's operating point."""
        return self.manifest.alpha


def select_device(name: str) -> torch.device:
    """The device that `auto`, `cpu`, `cuda` or `cuda:N` names. Raises BundleError when there is no such GPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise BundleError(
            f"device {name} was asked for, but this machine shows {torch.cuda.device_count()} GPUs to PyTorch. "
            'Set processing.device to "auto" or "cpu", or check the driver with nvidia-smi.'
        )
    return device


def load_bundle(name_or_path: str, device: torch.device | None = None) -> Bundle:
    """Load a bundle by a built-in name or a path, refusing whatever is damaged, incomplete or tampered with.

    Raises BundleError with the file's name, the reason and the remedy.
    """
    return assemble(bundle_files(name_or_path), name_or_path, device or torch.device("cpu"))


def bundle_files(name_or_path: str) -> dict[str, bytes]:
    """Read and check the files of a bundle named by a built-in name or a path. Raises BundleError."""
    with as_file(files("dicom_gam") / "bundles") as built_in:
        inside = built_in / name_or_path
        return read_files(inside if "/" not in name_or_path and inside.is_dir() else Path(name_or_path))


def assemble(content: dict[str, bytes], origin: str, device: torch.device) -> Bundle:
    """Build a bundle from its checked files. Raises BundleError; `origin` names the bundle in its message."""
    manifest = parse_manifest(content[MANIFEST].decode("utf-8", "replace"), f"{origin}: {MANIFEST}")
    split = load_network(manifest, content[WEIGHTS], origin, device)
    references = read_references(content[REFERENCE], manifest, origin).to(device)
    calibration = read_calibration(content[CALIBRATION], manifest, origin)
    identity = BundleIdentity(
        manifest.name, manifest.version, digest(content), manifest.intended_use, manifest.manufacturer
    )
    bundle = Bundle(
        manifest, identity, split, references, calibration, device, content[MODEL_CARD].decode("utf-8", "replace")
    )
    _try_out(bundle, origin)
    return bundle


def load_network(manifest: Manifest, weights: bytes, origin: str, device: torch.device) -> SplitNetwork:
    """The manifest's network with its weights, frozen, in evaluation mode, split at its attention layer."""
    try:
        network = build_network(manifest.architecture, len(manifest.class_names), dict(manifest.options))
    except BundleError as error:
        raise BundleError(f"{origin}: {MANIFEST}: {error}") from error
    try:
        network.load_state_dict(safetensors.torch.load(weights))
    except (safetensors.SafetensorError, RuntimeError, ValueError) as error:
        raise BundleError(
            f"{origin}: {WEIGHTS} does not fit architecture {manifest.architecture!r}: {error}"
        ) from error
    return split_network(network.eval().requires_grad_(False).to(device), manifest, origin)


def split_network(network: nn.Module, manifest: Manifest, origin: str) -> SplitNetwork:
    """Split a network at the layers that the manifest names. Raises BundleError when it can't be."""
    try:
        return SplitNetwork(network, manifest.attention_layer, manifest.early_layers)
    except SplitError as error:
        raise BundleError(f"{origin}: {MANIFEST}: {error}") from error


def write_references(references: References, manifest: Manifest) -> bytes:
    """`reference.npz`."""
    arrays: dict[str, NDArray[np.float32]] = {
        "channel_whitening": references.channel_whitening.numpy(),
        "feature_whitening": references.feature_whitening.numpy(),
    }
    for index, reference in references.classes.items():
        for field in ClassReference.__slots__:
            arrays[f"{manifest.class_names[index]}/{field}"] = getattr(reference, field).numpy()
    return _write_npz(arrays)


def read_references(content: bytes, manifest: Manifest, origin: str) -> References:
    """The references of every real class. Raises BundleError when one is missing or not finite."""
    arrays = _read_npz(content, f"{origin}: {REFERENCE}")

    def tensor(key: str) -> Tensor:
        if key not in arrays or arrays[key].dtype.kind != "f" or not np.isfinite(arrays[key]).all():
            raise BundleError(f"{origin}: {REFERENCE} lacks usable numbers for {key}. Run `dicom-gam calibrate` again.")
        return torch.from_numpy(np.asarray(arrays[key], np.float32))

    classes = {
        index: ClassReference(*(tensor(f"{entry.name}/{field}") for field in ClassReference.__slots__))
        for index, entry in enumerate(manifest.classes)
    }
    return References(classes, tensor("channel_whitening"), tensor("feature_whitening"))


def write_calibration(calibration: dict[int, ClassCalibration], manifest: Manifest) -> bytes:
    """`calibration.npz`."""
    arrays: dict[str, NDArray[np.generic]] = {"measurements": np.array([m.name for m in MEASUREMENTS])}
    for index, sample in calibration.items():
        name = manifest.class_names[index]
        arrays |= {f"{name}/centre": sample.centre, f"{name}/scale": sample.scale, f"{name}/oddness": sample.oddness}
        arrays |= {f"{name}/scores/{check}": sample.scores[check] for check in CHECKS}
    return _write_npz(arrays)


def read_calibration(content: bytes, manifest: Manifest, origin: str) -> dict[int, ClassCalibration]:
    """The calibration samples. Raises BundleError when a class can't support the manifest's alpha."""
    arrays = _read_npz(content, f"{origin}: {CALIBRATION}")
    if list(arrays.get("measurements", ())) != [m.name for m in MEASUREMENTS]:
        raise BundleError(
            f"{origin}: {CALIBRATION} was made for other measurements than this version takes. "
            "Run `dicom-gam calibrate` again."
        )
    calibration = {}
    for index, entry in enumerate(manifest.classes):
        try:
            centre, scale, odd = (
                np.asarray(arrays[f"{entry.name}/{part}"], np.float64) for part in ("centre", "scale", "oddness")
            )
            scores = {check: np.asarray(arrays[f"{entry.name}/scores/{check}"], np.float64) for check in CHECKS}
        except (KeyError, ValueError) as error:
            raise BundleError(
                f"{origin}: {CALIBRATION} lacks usable numbers: {error}. Run `dicom-gam calibrate` again."
            ) from error
        sample = ClassCalibration(centre, scale, odd, scores)
        _check_calibration(sample, f"{origin}: {CALIBRATION}: {entry.name}")
        if sample.size < needed_size(manifest.alpha):
            raise BundleError(
                f"{origin}: class {entry.name} has {sample.size} calibration images, but a false-alarm rate of "
                f"{manifest.alpha:g} needs {needed_size(manifest.alpha)}. Calibrate with more images or raise alpha."
            )
        calibration[index] = sample
    return calibration


def _check_calibration(sample: ClassCalibration, origin: str) -> None:
    """Refuse a sample of the wrong shape or with numbers that nothing could ever be odder than."""
    columns, n = len(MEASUREMENTS), sample.size
    shapes = [sample.centre.shape, sample.scale.shape, sample.oddness.shape, *(s.shape for s in sample.scores.values())]
    arrays = (sample.centre, sample.scale, sample.oddness, *sample.scores.values())
    ascending = all((np.diff(a, axis=0) >= 0).all() for a in (sample.oddness, *sample.scores.values()))
    if shapes != [(columns,), (columns,), (n, columns), *[(n,)] * len(CHECKS)] or not (
        ascending and all(np.isfinite(a).all() for a in arrays)
    ):
        raise BundleError(f"{origin} is not a sorted sample of finite scores. Run `dicom-gam calibrate` again.")


def _try_out(bundle: Bundle, origin: str) -> None:
    """Verify nothing once: a wrong layer or a reference of the wrong size shows here, not in the night."""
    spec, count = bundle.manifest.preprocessing, len(bundle.references.classes)
    x = torch.zeros(count, spec.channels, spec.input_size, spec.input_size, device=bundle.device)
    explanation = explain(bundle.network, x, bundle.manifest.attention_method, torch.arange(count))
    if not torch.isfinite(explanation.logits).all():
        raise BundleError(f"{origin}: {WEIGHTS} gives logits that are not numbers. Get the bundle again.")
    shape = tuple(explanation.maps.shape[1:])
    for index, reference in bundle.references.classes.items():
        if tuple(reference.attention.shape[1:]) != shape:
            raise BundleError(
                f"{origin}: {REFERENCE}: maps of class {bundle.manifest.class_names[index]} are "
                f"{tuple(reference.attention.shape[1:])}, but layer {bundle.manifest.attention_layer!r} gives {shape}. "
                "Run `dicom-gam calibrate` again."
            )
    try:
        measure(explanation, bundle.references, bundle.manifest.garbage_index)
    except RuntimeError as error:
        raise BundleError(
            f"{origin}: {REFERENCE} does not fit the layers in {MANIFEST}: {error}. Run `dicom-gam calibrate` again."
        ) from error


def _write_npz(arrays: dict[str, NDArray[np.generic]] | dict[str, NDArray[np.float32]]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(arrays):  # by hand and not np.savez: a fixed time stamp keeps the digest reproducible
            member = io.BytesIO()
            np.save(member, arrays[name], allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0)), member.getvalue())
    return buffer.getvalue()


def _read_npz(content: bytes, origin: str) -> dict[str, NDArray[np.generic]]:
    try:
        archive = np.lib.npyio.NpzFile(io.BytesIO(content), allow_pickle=False)
        return {name: np.asarray(archive[name]) for name in archive.files}
    except BAD_ZIP as error:
        raise BundleError(f"{origin} can't be read: {error}. Get the bundle again.") from error
