from __future__ import annotations

import hashlib
import itertools
import re
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_gam.dicom import uids
from dicom_gam.dicom.uids import derived_uid, device_uid, instance_uid, series_uid, tracking_uid


def test_a_derived_uid_is_2_25_and_the_version_5_uuid_of_its_parts():
    digest = hashlib.sha1(uids._NAMESPACE.bytes + b'["a", "b"]').digest()
    assert derived_uid("a", "b") == f"2.25.{uuid.UUID(bytes=digest[:16], version=5).int}"


@given(st.lists(st.text(), max_size=4))
def test_a_derived_uid_is_a_valid_uid(parts):
    assert re.fullmatch(r"2\.25\.(0|[1-9]\d{0,38})", derived_uid(*parts))


@pytest.mark.requirement("RES-17")
@given(st.lists(st.text(), max_size=3), st.lists(st.text(), max_size=3))
def test_only_the_same_parts_give_the_same_uid(one, other):
    assert (derived_uid(*one) == derived_uid(*other)) == (one == other)


@pytest.mark.requirement("RES-17")
def test_every_change_of_source_bundle_settings_or_role_changes_the_instance_uid():
    made = [instance_uid(*parts) for parts in itertools.product("ab", repeat=4)]
    assert len(set(made)) == 16


def test_kinds_of_uid_never_meet():
    same = ("1", "2", "3", "4")
    assert len({instance_uid(*same), series_uid(*same), tracking_uid(*same), device_uid("1"), derived_uid(*same)}) == 5
