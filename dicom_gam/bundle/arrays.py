"""`reference.npz` and `calibration.npz`: what a bundle's class normally looks like, and how odd a usual image is."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dicom_gam.bundle.files import BAD_ZIP, CALIBRATION, REFERENCE
from dicom_gam.bundle.manifest import Manifest
from dicom_gam.core.authenticity import FREQUENCY_STATISTICS
from dicom_gam.core.calibration import ClassCalibration, TailFunction, needed_size, score_threshold, smallest_alpha
from dicom_gam.core.measure import CHECKS, MEASUREMENTS, ClassReference, References
from dicom_gam.errors import BundleError

Arrays = dict[str, NDArray[np.generic]]
REMEDY = "Run `dicom-gam calibrate` again."


def write_references(references: References, manifest: Manifest) -> bytes:
    """`reference.npz`."""
    arrays: Arrays = {
        "frequency_statistics": np.array(FREQUENCY_STATISTICS),
        "feature_whitening": references.feature_whitening.numpy(),
        "frequency_whitening": references.frequency_whitening.numpy(),
    }
    for depth, whitening in enumerate(references.channel_whitening):
        arrays[f"channel_whitening/{depth}"] = whitening.numpy()
    for index, reference in references.classes.items():
        name = manifest.class_names[index]
        for field in ("attention", "early", "feature_mean", "frequency"):
            arrays[f"{name}/{field}"] = getattr(reference, field).numpy()
        for depth, mean in enumerate(reference.channel_mean):
            arrays[f"{name}/channel_mean/{depth}"] = mean.numpy()
    return _write_npz(arrays)


def read_references(content: bytes, manifest: Manifest, origin: str) -> References:
    """The references of every real class. Raises BundleError when one is missing or not finite."""
    arrays = _read_npz(content, f"{origin}: {REFERENCE}")
    _same_names(arrays, "frequency_statistics", FREQUENCY_STATISTICS, f"{origin}: {REFERENCE}")

    def tensor(key: str) -> Tensor:
        if key not in arrays or arrays[key].dtype.kind != "f" or not np.isfinite(arrays[key]).all():
            raise BundleError(f"{origin}: {REFERENCE} lacks usable numbers for {key}. {REMEDY}")
        return torch.from_numpy(np.asarray(arrays[key], np.float32))

    depths = range(len(manifest.early_layers))
    classes = {
        index: ClassReference(
            tensor(f"{entry.name}/attention"),
            tensor(f"{entry.name}/early"),
            tuple(tensor(f"{entry.name}/channel_mean/{depth}") for depth in depths),
            tensor(f"{entry.name}/feature_mean"),
            tensor(f"{entry.name}/frequency"),
        )
        for index, entry in enumerate(manifest.classes)
    }
    whitenings = tuple(tensor(f"channel_whitening/{depth}") for depth in depths)
    return References(classes, whitenings, tensor("feature_whitening"), tensor("frequency_whitening"))


def write_calibration(calibration: Mapping[int, ClassCalibration], manifest: Manifest) -> bytes:
    """`calibration.npz`."""
    arrays: Arrays = {"measurements": np.array([m.name for m in MEASUREMENTS])}
    for index, sample in calibration.items():
        name = manifest.class_names[index]
        for field in ("centre", "scale", "oddness", "combined"):
            arrays[f"{name}/{field}"] = getattr(sample, field)
        for check in CHECKS:
            arrays[f"{name}/scores/{check}"] = sample.scores[check]
            arrays[f"{name}/tail/{check}"] = sample.tails[check].scores
            arrays[f"{name}/tail_rate/{check}"] = np.array(sample.tails[check].rate)
    return _write_npz(arrays)


def read_calibration(content: bytes, manifest: Manifest, origin: str) -> dict[int, ClassCalibration]:
    """The calibration samples. Raises BundleError when a class can't support the manifest's alpha."""
    arrays = _read_npz(content, f"{origin}: {CALIBRATION}")
    _same_names(arrays, "measurements", [m.name for m in MEASUREMENTS], f"{origin}: {CALIBRATION}")
    calibration = {}
    for index, entry in enumerate(manifest.classes):

        def array(part: str, name: str = entry.name) -> NDArray[np.float64]:
            return np.asarray(arrays[f"{name}/{part}"], np.float64)

        try:
            sample = _class_calibration(array)
        except (KeyError, ValueError) as error:
            raise BundleError(f"{origin}: {CALIBRATION} lacks usable numbers: {error}. {REMEDY}") from error
        _check_calibration(sample, f"{origin}: {CALIBRATION}: {entry.name}")
        if score_threshold(sample.combined, manifest.alpha) is None:
            raise BundleError(
                f"{origin}: class {entry.name} has {sample.size} calibration images, which support a false-alarm rate "
                f"of {smallest_alpha(sample.combined):.3g}; {manifest.alpha:g} needs {needed_size(manifest.alpha)} "
                "that the network does not take for garbage. Calibrate with more images or raise alpha."
            )
        calibration[index] = sample
    return calibration


def _class_calibration(array: Callable[[str], NDArray[np.float64]]) -> ClassCalibration:
    tails = {check: TailFunction(array(f"tail/{check}"), float(array(f"tail_rate/{check}"))) for check in CHECKS}
    scores = {check: array(f"scores/{check}") for check in CHECKS}
    return ClassCalibration(array("centre"), array("scale"), tails, array("oddness"), scores, array("combined"))


def _same_names(arrays: Arrays, key: str, expected: object, origin: str) -> None:
    if list(arrays.get(key, np.array([]))) != list(expected):  # type: ignore[call-overload]
        raise BundleError(f"{origin} was made for other measurements than this version takes. {REMEDY}")


def _check_calibration(sample: ClassCalibration, origin: str) -> None:
    """Refuse a sample of the wrong shape or with numbers that nothing could ever be odder than."""
    columns, n = len(MEASUREMENTS), len(sample.oddness)
    shapes = [sample.centre.shape, sample.scale.shape, sample.oddness.shape, *(s.shape for s in sample.scores.values())]
    tails = [tail.scores for tail in sample.tails.values()]
    arrays = (sample.centre, sample.scale, sample.oddness, *sample.scores.values(), *tails)
    ascending = all((np.diff(a, axis=0) >= 0).all() for a in (sample.oddness, *sample.scores.values(), *tails))
    usable = (
        shapes == [(columns,), (columns,), (n, columns), *[(n,)] * len(CHECKS)]
        and sample.combined.ndim == 1
        and len(sample.combined) >= n
        and ascending
        and all(np.isfinite(a).all() for a in arrays)
        and (sample.scale > 0).all()
        and all(len(tail.scores) and 0 < tail.rate < np.inf for tail in sample.tails.values())
        and (sample.combined >= 0).all()  # infinite is possible, not a number is not
        and (sample.combined[1:] >= sample.combined[:-1]).all()
    )
    if not usable:
        raise BundleError(f"{origin} is not a sorted sample of finite scores. {REMEDY}")


def _write_npz(arrays: Arrays) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(arrays):  # by hand and not np.savez: a fixed time stamp keeps the digest reproducible
            member = io.BytesIO()
            np.save(member, arrays[name], allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0)), member.getvalue())
    return buffer.getvalue()


def _read_npz(content: bytes, origin: str) -> Arrays:
    try:
        archive = np.lib.npyio.NpzFile(io.BytesIO(content), allow_pickle=False)
        return {name: np.asarray(archive[name]) for name in archive.files}
    except BAD_ZIP as error:
        raise BundleError(f"{origin} can't be read: {error}. Get the bundle again.") from error
