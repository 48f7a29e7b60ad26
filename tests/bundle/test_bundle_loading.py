"""Loading a bundle: what is accepted, what is refused, and whether the message says which file and why."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from dicom_gam.bundle.bundle import load_bundle, select_device
from dicom_gam.bundle.files import (
    CALIBRATION,
    CHECKSUMS,
    MANIFEST,
    REFERENCE,
    REQUIRED,
    WEIGHTS,
    digest,
    read_files,
    write_files,
)
from dicom_gam.bundle.verifier import verify_batch
from dicom_gam.errors import BundleError
from dicom_gam.records import Verdict
from tests.bundle.copies import Arrays, arrays_changed, copy_of, with_changes, zipped
from tests.tiny_bundle import DISC, NOISE, STRIPES, prepared, shapes


def refusal(path: Path) -> str:
    with pytest.raises(BundleError) as caught:
        load_bundle(str(path))
    assert str(path) in str(caught.value)
    return str(caught.value)


def text_changed(old: str, new: str) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        assert old.encode() in content
        return content.replace(old.encode(), new.encode())

    return change


def test_bundle_loads_and_tells_its_classes_apart(tiny_bundle_dir: Path) -> None:
    bundle = load_bundle(str(tiny_bundle_dir))
    for kind, label in ((DISC, "disc"), (STRIPES, "stripes"), (NOISE, "garbage")):
        assert {p.label for p, _ in verify_batch(bundle, prepared(shapes(kind, 6, 77)))} == {label}


@pytest.mark.requirement("VER-07")
def test_most_images_like_the_calibration_ones_pass_and_noise_is_rejected(tiny_bundle_dir: Path) -> None:
    bundle = load_bundle(str(tiny_bundle_dir))
    verdicts = [v.verdict for kind in (DISC, STRIPES) for _, v in verify_batch(bundle, prepared(shapes(kind, 40, 78)))]
    assert verdicts.count(Verdict.PASS) >= 64  # alpha is 0.1; fewer than 64 of 80 has probability 0.001
    assert {v.verdict for _, v in verify_batch(bundle, prepared(shapes(NOISE, 10, 78)))} == {Verdict.REJECT}


@pytest.mark.requirement("VER-13")
def test_result_does_not_depend_on_the_batch(tiny_bundle_dir: Path) -> None:
    bundle = load_bundle(str(tiny_bundle_dir))
    contents = torch.cat([shapes(DISC, 2, 79), shapes(NOISE, 2, 79), shapes(STRIPES, 2, 79)])
    together = verify_batch(bundle, prepared(contents))
    for (prediction, verification), content in zip(together, contents, strict=True):
        ((alone, verified),) = verify_batch(bundle, prepared(content[None]))
        assert alone.probabilities == pytest.approx(prediction.probabilities, abs=1e-5)
        assert verified.verdict == verification.verdict
        np.testing.assert_allclose(verified.attention_map, verification.attention_map, atol=1e-4)


def test_bundle_s_own_attention_method_is_used(tiny_bundle_dir: Path, tmp_path: Path) -> None:
    changes = {MANIFEST: text_changed('attention_method = "hirescam"', 'attention_method = "gradcam"')}
    bundle = load_bundle(str(with_changes(tiny_bundle_dir, tmp_path, changes)))
    ((_, verification),) = verify_batch(bundle, prepared(shapes(DISC, 1, 1)))
    assert verification.attention_method == "gradcam"


def test_bf16_gives_the_same_labels(tiny_bundle_dir: Path) -> None:
    bundle, contents = load_bundle(str(tiny_bundle_dir)), shapes(DISC, 8, 80)
    exact, rounded = verify_batch(bundle, prepared(contents)), verify_batch(bundle, prepared(contents), bf16=True)
    assert [p.label for p, _ in exact] == [p.label for p, _ in rounded]


def test_network_is_frozen_and_in_evaluation_mode(tiny_bundle_dir: Path) -> None:
    split = load_bundle(str(tiny_bundle_dir)).network
    parameters = [p for module in (split._trunk, split._head) for p in module.parameters()]
    assert parameters
    assert not any(p.requires_grad for p in parameters)


def test_zip_of_a_bundle_is_the_same_bundle(tiny_bundle_dir: Path, tmp_path: Path) -> None:
    for folder in ("", "tiny-shapes/"):
        path = zipped(tiny_bundle_dir, tmp_path / f"bundle{len(folder)}.zip", folder)
        assert load_bundle(str(path)).identity == load_bundle(str(tiny_bundle_dir)).identity


def test_digest_is_the_sha256_of_the_checksum_file(tiny_bundle_dir: Path) -> None:
    expected = hashlib.sha256((tiny_bundle_dir / CHECKSUMS).read_bytes()).hexdigest()
    assert load_bundle(str(tiny_bundle_dir)).identity.digest == expected


def test_writing_what_was_read_gives_the_same_digest(tiny_bundle_dir: Path, tmp_path: Path) -> None:
    files = read_files(tiny_bundle_dir)
    write_files(tmp_path / "again", files)
    assert digest(read_files(tmp_path / "again")) == digest(files)


def test_checksum_file_is_one_that_sha256sum_understands(tiny_bundle_dir: Path) -> None:
    lines = (tiny_bundle_dir / CHECKSUMS).read_text().splitlines()
    assert [line[66:] for line in lines] == sorted(REQUIRED)
    assert all(line[64:66] == "  " for line in lines)


def test_folder_that_is_not_empty_is_never_written_into(tiny_bundle_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(BundleError, match="is not empty"):
        write_files(tmp_path, read_files(tiny_bundle_dir))
    assert os.listdir(tmp_path) == ["mine.txt"]


@pytest.mark.requirement("BUN-01")
@pytest.mark.parametrize("name", [*REQUIRED, CHECKSUMS])
def test_missing_file_is_named(name: str, tiny_bundle_dir: Path, tmp_path: Path) -> None:
    copy = copy_of(tiny_bundle_dir, tmp_path)
    (copy / name).unlink()
    assert f"{name} is missing" in refusal(copy)


@pytest.mark.requirement("BUN-01")
@pytest.mark.parametrize("name", REQUIRED)
def test_one_flipped_bit_is_found_and_its_file_named(name: str, tiny_bundle_dir: Path, tmp_path: Path) -> None:
    copy = copy_of(tiny_bundle_dir, tmp_path)
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    assert f"{name} differs from its checksum" in refusal(copy)


@pytest.mark.requirement("BUN-01")
@pytest.mark.parametrize("name", REQUIRED)
def test_truncated_file_is_named(name: str, tiny_bundle_dir: Path, tmp_path: Path) -> None:
    copy = copy_of(tiny_bundle_dir, tmp_path)
    (copy / name).write_bytes((copy / name).read_bytes()[:-1])
    assert f"{name} differs from its checksum" in refusal(copy)


@pytest.mark.requirement("BUN-01")
def test_extra_file_is_named(tiny_bundle_dir: Path, tmp_path: Path) -> None:
    copy = copy_of(tiny_bundle_dir, tmp_path)
    (copy / "payload.py").write_text("print('hello')")
    assert "payload.py is not listed in SHA256SUMS" in refusal(copy)


@pytest.mark.parametrize("line", ["abc  bundle.toml", "no checksum at all", f"{'0' * 64}  ../bundle.toml", "\xff" * 70])
def test_malformed_checksum_line_is_named_by_its_number(line: str, tiny_bundle_dir: Path, tmp_path: Path) -> None:
    copy = copy_of(tiny_bundle_dir, tmp_path)
    with (copy / CHECKSUMS).open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    assert f"SHA256SUMS line {len(REQUIRED) + 1} is not a checksum and a file name" in refusal(copy)


def test_checksum_of_another_file_is_found(tiny_bundle_dir: Path, tmp_path: Path) -> None:
    copy = copy_of(tiny_bundle_dir, tmp_path)
    lines = (copy / CHECKSUMS).read_text().splitlines()
    swapped = [lines[1][:64] + lines[0][64:], lines[0][:64] + lines[1][64:], *lines[2:]]
    (copy / CHECKSUMS).write_text("\n".join(swapped) + "\n")
    assert "differs from its checksum" in refusal(copy)


def test_nothing_there_says_so() -> None:
    with pytest.raises(BundleError, match="there is no such bundle"):
        load_bundle("no-such-bundle")


def test_file_that_is_no_zip_says_so(tmp_path: Path) -> None:
    path = tmp_path / "bundle.zip"
    path.write_bytes(b"this is not a zip")
    assert "neither a folder nor a readable zip" in refusal(path)


@pytest.mark.requirement("BUN-01")
def test_zip_damaged_anywhere_is_refused_and_never_half_loaded(tiny_bundle_dir: Path, tmp_path: Path) -> None:
    whole = zipped(tiny_bundle_dir, tmp_path / "whole.zip").read_bytes()
    identity, path = load_bundle(str(tiny_bundle_dir)).identity, tmp_path / "damaged.zip"
    places = np.random.default_rng(0).choice(len(whole), 300, replace=False)
    refused = 0
    for place in places:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            found = digest(read_files(path))
        except BundleError:
            refused += 1
        else:  # a byte of no consequence, such as a time stamp
            assert found == identity.digest
    assert refused > 200


@pytest.mark.requirement("BUN-01")
@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_zip_that_was_cut_short_is_refused(share: float, tiny_bundle_dir: Path, tmp_path: Path) -> None:
    whole, path = zipped(tiny_bundle_dir, tmp_path / "whole.zip").read_bytes(), tmp_path / "short.zip"
    path.write_bytes(whole[: int(share * len(whole))])
    assert "get the bundle again" in refusal(path).lower()


@pytest.mark.requirement("BUN-03")
def test_zip_with_a_path_that_climbs_out_writes_nothing_and_is_refused(tiny_bundle_dir: Path, tmp_path: Path) -> None:
    path = zipped(tiny_bundle_dir, tmp_path / "slip.zip")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../../escaped.txt", "gotcha")
    assert "holds the files of one folder" in refusal(path)
    assert sorted(os.listdir(tmp_path)) == ["slip.zip"]
    assert not list(tmp_path.parent.parent.glob("escaped.txt"))


@pytest.mark.requirement("BUN-03")
def test_zip_whose_every_path_climbs_out_is_read_by_name_and_writes_nothing(
    tiny_bundle_dir: Path, tmp_path: Path
) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    path = zipped(tiny_bundle_dir, inner / "slip.zip", "../../")
    load_bundle(str(path))
    assert os.listdir(tmp_path) == ["a"]


def test_encrypted_zip_member_is_refused(tiny_bundle_dir: Path, tmp_path: Path) -> None:
    path = zipped(tiny_bundle_dir, tmp_path / "locked.zip")
    content = bytearray(path.read_bytes())
    central = content.index(b"PK\x01\x02")
    content[6] |= 1
    content[central + 8] |= 1
    path.write_bytes(content)
    assert "encrypted" in refusal(path)


@pytest.mark.requirement("BUN-02")
def test_pickle_inside_a_reference_is_refused_and_never_run(tiny_bundle_dir: Path, tmp_path: Path) -> None:
    trace = tmp_path / "the pickle was run"

    class Payload:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return (os.mkdir, (str(trace),))

    def poison(arrays: Arrays) -> None:
        arrays["disc/attention"] = np.array([Payload()], dtype=object)

    change = {REFERENCE: arrays_changed(poison, allow_pickle=True)}
    message = refusal(with_changes(tiny_bundle_dir, tmp_path, change))
    assert REFERENCE in message
    assert "allow_pickle=False" in message
    assert not trace.exists()


@pytest.mark.parametrize("name", [REFERENCE, CALIBRATION])
@pytest.mark.parametrize("content", [b"", b"junk", b"\x80\x04N.", b"\x93NUMPY\x01\x00"])
def test_arrays_that_are_no_npz_are_refused(name: str, content: bytes, tiny_bundle_dir: Path, tmp_path: Path) -> None:
    assert f"{name} can't be read" in refusal(with_changes(tiny_bundle_dir, tmp_path, {name: lambda _: content}))


def _drop(key: str) -> Callable[[Arrays], None]:
    def change(arrays: Arrays) -> None:
        del arrays[key]

    return change


def _put(key: str, value: object) -> Callable[[Arrays], None]:
    def change(arrays: Arrays) -> None:
        assert key in arrays
        arrays[key] = np.asarray(value)

    return change


def _edit(key: str, edit: Callable[[np.ndarray], object]) -> Callable[[Arrays], None]:
    def change(arrays: Arrays) -> None:
        arrays[key] = np.asarray(edit(arrays[key].copy()))

    return change


def _with_nan(array: np.ndarray) -> np.ndarray:
    array.flat[0] = np.nan
    return array


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_drop("disc/early"), "lacks usable numbers for disc/early"),
        (_drop("channel_whitening/1"), "lacks usable numbers for channel_whitening/1"),
        (_edit("stripes/attention", _with_nan), "lacks usable numbers for stripes/attention"),
        (_edit("feature_whitening", _with_nan), "lacks usable numbers for feature_whitening"),
        (_put("disc/channel_mean/0", ["a", "b"]), "lacks usable numbers for disc/channel_mean/0"),
        (_edit("disc/attention", lambda a: a[:, :2]), "maps of class disc are (2, 4), but layer 'layer3' gives (4, 4)"),
        (_edit("disc/early", lambda a: a[:, :, :3]), "does not fit the layers"),
        (_edit("disc/early", lambda a: a[:1]), "does not fit the layers"),
        (_edit("disc/feature_mean", lambda a: a[:-2]), "does not fit the layers"),
        (_edit("channel_whitening/0", lambda a: a[:-1]), "does not fit the layers"),
        (_edit("disc/frequency", lambda a: a[:, :-1]), "does not fit the layers"),
        (_edit("frequency_statistics", lambda a: a[:-1]), "made for other measurements"),
    ],
)
def test_unfit_reference_is_refused(
    change: Callable[[Arrays], None], message: str, tiny_bundle_dir: Path, tmp_path: Path
) -> None:
    found = refusal(with_changes(tiny_bundle_dir, tmp_path, {REFERENCE: arrays_changed(change)}))
    assert REFERENCE in found
    assert message in found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_drop("disc/scores/early"), "disc/scores/early"),
        (_drop("stripes/centre"), "stripes/centre"),
        (_drop("measurements"), "made for other measurements"),
        (_edit("measurements", lambda a: a[::-1]), "made for other measurements"),
        (_edit("disc/scores/input", _with_nan), "disc is not a sorted sample of finite scores"),
        (_edit("disc/oddness", _with_nan), "disc is not a sorted sample of finite scores"),
        (_edit("stripes/scale", _with_nan), "stripes is not a sorted sample of finite scores"),
        (_edit("disc/scores/input", lambda a: a[::-1]), "disc is not a sorted sample of finite scores"),
        (_edit("disc/scores/input", lambda a: a[:5]), "disc is not a sorted sample of finite scores"),
        (_put("disc/scores/input", ["a", "b"]), "lacks usable numbers"),
        (_edit("disc/combined", lambda a: a[::-1]), "disc is not a sorted sample of finite scores"),
        (_edit("disc/combined", _with_nan), "disc is not a sorted sample of finite scores"),
        (_put("disc/tail_rate/early", 0.0), "disc is not a sorted sample of finite scores"),
        (_edit("disc/tail/early", lambda a: a[:0]), "disc is not a sorted sample of finite scores"),
    ],
)
def test_unfit_calibration_is_refused(
    change: Callable[[Arrays], None], message: str, tiny_bundle_dir: Path, tmp_path: Path
) -> None:
    found = refusal(with_changes(tiny_bundle_dir, tmp_path, {CALIBRATION: arrays_changed(change)}))
    assert CALIBRATION in found
    assert message in found


@pytest.mark.requirement("VER-09")
def test_alpha_that_the_calibration_images_cannot_support_is_refused(tiny_bundle_dir: Path, tmp_path: Path) -> None:
    changes = {MANIFEST: text_changed("alpha = 0.1", "alpha = 0.01")}
    message = refusal(with_changes(tiny_bundle_dir, tmp_path, changes))
    assert "class disc has 80 calibration images, which support a false-alarm rate of 0.0123; 0.01 needs 99" in message


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"compact_resnet"', '"resnet19"', "architecture 'resnet19' is not installed; installed are: compact_resnet"),
        ('"compact_resnet"', '"resnet18"', "does not take the options"),
        ("widths = [4, 4, 8]", "widths = [4]", "does not take the options"),
        ("blocks = 1", "blocks = 2", "weights.safetensors does not fit architecture 'compact_resnet'"),
        ('attention_layer = "layer3"', 'attention_layer = "layer9"', "no layer 'layer9'"),
        ('attention_layer = "layer3"', 'attention_layer = "layer2"', "maps of class disc"),
        ('["stem", "layer1"]', '["stem", "pool"]', "comes after the attention layer"),
        ('["stem", "layer1"]', '["stem"]', "does not fit the layers"),
        ('"authenticity"', '"magic"', "checks.3"),
        ('name = "stripes"', 'name = "disc"', "class names repeat"),
        ('garbage_class = "garbage"', 'garbage_class = "disc"', "class names repeat"),
        ('name = "stripes"', 'name = "lines"', "lacks usable numbers for lines/attention"),
        ('attention_method = "hirescam"', 'attention_method = "magic"', "attention_method must be one of hirescam"),
        ("alpha = 0.1", "alpha = 1.5", "alpha: Input should be less than 1"),
        ("alpha = 0.1", "alhpa = 0.1", "alhpa: Extra inputs are not permitted"),
        ("alpha = 0.1", "alpha 0.1", "is not valid TOML"),
        ("channels = 1", "channels = 2", "preprocessing.channels"),
        ("input_size = 32", "input_size = 64", "maps of class disc are (4, 4), but layer 'layer3' gives (8, 8)"),
    ],
)
def test_unfit_manifest_is_refused(old: str, new: str, message: str, tiny_bundle_dir: Path, tmp_path: Path) -> None:
    assert message in refusal(with_changes(tiny_bundle_dir, tmp_path, {MANIFEST: text_changed(old, new)}))


def test_weights_that_are_no_safetensors_are_refused(tiny_bundle_dir: Path, tmp_path: Path) -> None:
    assert f"{WEIGHTS} does not fit" in refusal(with_changes(tiny_bundle_dir, tmp_path, {WEIGHTS: lambda _: b"junk"}))


def test_weights_that_are_not_numbers_are_refused(tiny_bundle_dir: Path, tmp_path: Path) -> None:
    def poison(content: bytes) -> bytes:
        weights = safetensors.torch.load(content)
        weights["classifier.weight"][0, 0] = torch.nan
        return safetensors.torch.save(weights)

    message = refusal(with_changes(tiny_bundle_dir, tmp_path, {WEIGHTS: poison}))
    assert f"{WEIGHTS} gives logits that are not numbers" in message


def test_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(BundleError, match="this machine shows"):
        select_device("cuda:99")


def test_automatic_device_is_one_that_works() -> None:
    assert torch.zeros(1, device=select_device("auto")).sum() == 0


def test_sample_that_the_network_takes_for_garbage_supports_no_level(tiny_bundle_dir: Path, tmp_path: Path) -> None:
    spoilt = arrays_changed(_put("disc/combined", np.full(80, np.inf)))
    message = refusal(with_changes(tiny_bundle_dir, tmp_path, {CALIBRATION: spoilt}))
    assert "class disc has 80 calibration images, which support a false-alarm rate of 1;" in message
