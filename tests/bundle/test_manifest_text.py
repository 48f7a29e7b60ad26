"""bundle.toml written and read again."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicom_gam.bundle.architectures import build_network
from dicom_gam.bundle.manifest import parse_manifest
from dicom_gam.errors import BundleError
from dicom_gam.training.toml_text import manifest_text
from tests.tiny_bundle import tiny_manifest


def test_manifest_written_and_read_is_the_same() -> None:
    manifest = tiny_manifest()
    assert parse_manifest(manifest_text(manifest), "here") == manifest


@given(st.text(st.characters(blacklist_categories=("Cs",)), max_size=60), st.floats(1e-6, 1, exclude_max=True))
@settings(max_examples=80, deadline=None)
def test_any_text_and_number_survives(text: str, alpha: float) -> None:
    manifest = tiny_manifest(manufacturer=text, intended_use=text, alpha=alpha)
    assert parse_manifest(manifest_text(manifest), "here") == manifest


def test_nested_options_survive() -> None:
    options = {"widths": [4, 4, 8], "deep": {"flag": True, "rate": 1e-9, "list": [[1, 2], [3]]}, "big": 2.5e300}
    manifest = tiny_manifest(options=options)
    assert parse_manifest(manifest_text(manifest), "here") == manifest


def test_garbage_class_is_the_last_of_the_network() -> None:
    manifest = tiny_manifest()
    assert manifest.class_names == ("disc", "stripes", "garbage")
    assert manifest.garbage_index == 2


def test_every_wrong_key_is_listed_at_once() -> None:
    text = manifest_text(tiny_manifest()).replace('version = "1.0.0"', 'version = "one"').replace("std =", "sdt =")
    with pytest.raises(BundleError, match=r"here: version: .*; preprocessing\.sdt: "):
        parse_manifest(text, "here")


@pytest.mark.parametrize(
    "name", ["compact_resnet", "resnet18", "resnet50", "densenet121", "efficientnet_b0", "mobilenet_v3_small"]
)
def test_every_built_in_architecture_has_the_classes_it_was_asked_for(name: str) -> None:
    network = build_network(name, 7, {})
    assert [p.shape[0] for p in network.parameters()][-1] == 7
