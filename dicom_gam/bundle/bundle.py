"""Load a model bundle: checked, built, split, and ready to be shared by threads."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import nn

from dicom_gam.bundle.architectures import build_network
from dicom_gam.bundle.arrays import read_calibration, read_references
from dicom_gam.bundle.files import CALIBRATION, MANIFEST, MODEL_CARD, REFERENCE, WEIGHTS, digest, read_files
from dicom_gam.bundle.manifest import Manifest, parse_manifest
from dicom_gam.core.attention import explain
from dicom_gam.core.authenticity import FREQUENCY_STATISTICS
from dicom_gam.core.calibration import ClassCalibration
from dicom_gam.core.measure import References, measure
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


def describe_device(device: torch.device) -> dict[str, str | int]:
    """What people want to know of the device: `device`, and of a GPU its name and `device_memory_bytes`."""
    if device.type != "cuda":
        return {"device": str(device)}
    found = torch.cuda.get_device_properties(device)
    return {"device": f"{device} ({found.name})", "device_memory_bytes": int(found.total_memory)}


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
    """The manifest's network with its weights, split at its attention layer."""
    return split_network(whole_network(manifest, weights, origin, device), manifest, origin)


def whole_network(manifest: Manifest, weights: bytes, origin: str, device: torch.device) -> nn.Module:
    """The manifest's network with its weights, frozen, in evaluation mode. Raises BundleError."""
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
    return network.eval().requires_grad_(False).to(device)


def split_network(network: nn.Module, manifest: Manifest, origin: str) -> SplitNetwork:
    """Split a network at the layers that the manifest names. Raises BundleError when it can't be."""
    try:
        return SplitNetwork(network, manifest.attention_layer, manifest.early_layers)
    except SplitError as error:
        raise BundleError(f"{origin}: {MANIFEST}: {error}") from error


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
    sides = {tuple(grid.shape[2:]) for grid in explanation.early}
    if len(sides) > 1:
        raise BundleError(
            f"{origin}: {MANIFEST}: the early layers are of {len(sides)} different sizes below the grid they are "
            "compared on; name layers nearer to the input."
        )
    depths = (len(explanation.early), *sides.pop())
    for reference in bundle.references.classes.values():
        if (reference.early.shape[0], *reference.early.shape[2:]) != depths:
            raise BundleError(
                f"{origin}: {REFERENCE} does not fit the layers in {MANIFEST}: structure maps are "
                f"{tuple(reference.early.shape)}, not {depths[0]} layers of {depths[1:]}. "
                "Run `dicom-gam calibrate` again."
            )
    try:
        frequency = torch.zeros(count, len(FREQUENCY_STATISTICS))
        measure(explanation, frequency, bundle.references, bundle.manifest.garbage_index)
    except RuntimeError as error:
        raise BundleError(
            f"{origin}: {REFERENCE} does not fit the layers in {MANIFEST}: {error}. Run `dicom-gam calibrate` again."
        ) from error
