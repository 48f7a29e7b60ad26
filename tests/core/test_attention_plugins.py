"""Methods that installed packages offer, by a package that lies on sys.path as an installed one does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dicom_gam.bundle.manifest import parse_manifest
from dicom_gam.core import attention_registry
from dicom_gam.core.attention import METHODS, explain
from dicom_gam.core.network import SplitNetwork
from dicom_gam.errors import BundleError
from dicom_gam.training.toml_text import manifest_text
from tests.core.networks import MlpHead, images, seeded
from tests.tiny_bundle import tiny_manifest

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    def offer(package: str, entries: dict[str, str], source: str = "") -> None:
        home = tmp_path / package
        metadata = home / f"{package}-1.2.dist-info"
        metadata.mkdir(parents=True)
        (home / f"{package}.py").write_text(source)
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.2\n")
        lines = "\n".join(f"{name} = {package}:{attribute}" for name, attribute in entries.items())
        (metadata / "entry_points.txt").write_text(f"[{attention_registry.GROUP}]\n{lines}\n")
        monkeypatch.syspath_prepend(home)

    attention_registry.load_plugin.cache_clear()
    yield offer
    attention_registry.load_plugin.cache_clear()


def split() -> SplitNetwork:
    return SplitNetwork(seeded(MlpHead), "body")


X = images(2, 16, channels=1).float()


@pytest.mark.requirement("BUN-05")
def test_method_of_an_installed_package_is_listed_last_and_explains(install: Install) -> None:
    before = list(METHODS)
    install("mean_cam", {"meancam": "mean"}, "def mean(case):\n    return case.activations.relu().sum(1)\n")
    assert [*METHODS] == [*before, "meancam"]
    assert len(METHODS) == len(before) + 1
    assert "meancam" in METHODS
    explanation = explain(split(), X, "meancam")
    assert explanation.maps.shape == (2, 8, 8)
    assert not explanation.degenerate.any()


def test_manifest_may_name_the_method_of_an_installed_package(install: Install) -> None:
    text = manifest_text(tiny_manifest()).replace('"hirescam"', '"suncam"')
    with pytest.raises(BundleError, match=r"attention_method must be one of hirescam, .*scorecam"):
        parse_manifest(text, "bundle.toml")
    install("sun_cam", {"suncam": "sun"})
    assert parse_manifest(text, "bundle.toml").attention_method == "suncam"


def test_listing_the_methods_imports_no_package(install: Install) -> None:
    install("bad_cam", {"badcam": "bad"}, "raise SystemError('must not be imported')\n")
    assert "badcam" in list(METHODS)


@pytest.mark.parametrize(
    ("package", "source", "reason"),
    [
        ("lacking_cam", "import nowhere_to_be_found", "ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
        ("garbled_cam", "this is no python", "SyntaxError"),
        ("empty_cam", "", "AttributeError"),
        ("number_cam", "bad = 3", "is no callable but int"),
    ],
)
def test_package_that_cannot_be_loaded_is_named_with_the_reason(
    install: Install, package: str, source: str, reason: str
) -> None:
    install(package, {"brokencam": "bad"}, source)
    with pytest.raises(BundleError, match=rf"attention method 'brokencam' of {package} 1\.2 .*{reason}"):
        explain(split(), X, "brokencam")


def test_two_packages_that_offer_one_name_are_both_named(install: Install) -> None:
    install("first_cam", {"samecam": "a"}, "def a(case): ...\n")
    install("second_cam", {"samecam": "b"}, "def b(case): ...\n")
    with pytest.raises(BundleError, match=r"offered by first_cam 1\.2 and second_cam 1\.2: uninstall all but one"):
        explain(split(), X, "samecam")


@pytest.mark.requirement("BUN-05")
def test_package_cannot_replace_a_built_in_method(install: Install) -> None:
    built_in = METHODS["hirescam"]
    install("false_cam", {"hirescam": "false"}, "def false(case): ...\n")
    assert METHODS["hirescam"] is built_in
    assert list(METHODS).count("hirescam") == 1


def test_evidence_of_the_wrong_shape_is_refused(install: Install) -> None:
    install("flat_cam", {"flatcam": "flat"}, "def flat(case):\n    return case.activations.flatten(1)\n")
    with pytest.raises(BundleError, match=r"'flatcam' gave evidence of shape \(2, 512\) instead of \(2, 8, 8\)"):
        explain(split(), X, "flatcam")
