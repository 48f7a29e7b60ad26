"""Who is let in: a table of callers and addresses."""

import pytest

from dicom_gam.dicom.scp.access import plain_address, refusal, shown_title, wide_open
from dicom_gam.sections import AccessSettings

NOBODY = AccessSettings()
ANYONE = AccessSettings(anyone_may_send=True)
SOME = AccessSettings.model_validate(
    {
        "callers": [
            {"ae_title": "CT1", "hosts": ["10.1.2.3"]},
            {"ae_title": "CT2", "hosts": ["10.1.2.0/24", "fd00::/8"]},
            {"ae_title": "*", "hosts": ["192.168.7.0/24", "::ffff:172.16.0.0/108"]},
        ],
        "called_ae_titles": ["OLD_NAME"],
    }
)


@pytest.mark.requirement("DOOR-06")
@pytest.mark.parametrize(
    ("access", "calling", "called", "address", "reason"),
    [
        (SOME, "CT1", "GAM", "10.1.2.3", None),
        (SOME, "CT1", "OLD_NAME", "10.1.2.3", None),
        (SOME, "CT1", "gam", "10.1.2.3", 7),
        (SOME, "CT1", "", "10.1.2.3", 7),
        (SOME, "CT1", "GAM", "10.1.2.4", 3),
        (SOME, "ct1", "GAM", "10.1.2.3", 3),
        (SOME, "CT1", "GAM", "::ffff:10.1.2.3", None),
        (SOME, "CT2", "GAM", "10.1.2.200", None),
        (SOME, "CT2", "GAM", "10.1.3.1", 3),
        (SOME, "CT2", "GAM", "fd00::1", None),
        (SOME, "CT2", "GAM", "fe80::1%eth0", 3),
        (SOME, "WHATEVER", "GAM", "192.168.7.9", None),
        (SOME, "WHATEVER", "GAM", "172.17.1.1", None),
        (SOME, "WHATEVER", "GAM", "10.1.2.3", 3),
        (SOME, "*", "GAM", "10.1.2.3", 3),
        (SOME, "WHATEVER", "GAM", "127.0.0.1", 3),
        (SOME, "CT1", "GAM", "nonsense", 3),
        (NOBODY, "CT1", "GAM", "127.0.0.1", None),
        (NOBODY, "CT1", "GAM", "::1", None),
        (NOBODY, "CT1", "GAM", "::ffff:127.0.0.1", None),
        (NOBODY, "CT1", "GAM", "10.1.2.3", 3),
        (ANYONE, "CT1", "GAM", "10.1.2.3", None),
        (ANYONE, "CT1", "OTHER", "10.1.2.3", 7),
        (ANYONE, "", "GAM", "10.1.2.3", 3),
        (ANYONE, "A\x07", "GAM", "10.1.2.3", 3),
    ],
)
def test_a_caller_is_let_in_by_title_and_address_together(access, calling, called, address, reason):
    found = refusal(calling, called, address, "GAM", access)
    assert (found.reason if found else None) == reason
    if found:
        assert (found.result, found.source) == (1, 1)  # for good, by the service user
        assert "Called AE title not recognised" in found.why or "Calling AE title not recognised" in found.why


@pytest.mark.requirement("DOOR-07")
@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "10.1.2.3", "node.hospital"])
def test_a_node_that_others_reach_does_not_start_without_callers(host):
    why = wide_open(host, NOBODY)
    assert "access.callers" in why
    assert "access.anyone_may_send" in why
    assert wide_open(host, SOME) is None
    assert wide_open(host, ANYONE) is None


@pytest.mark.requirement("DOOR-07")
@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_a_node_that_only_this_machine_reaches_may_start(host):
    assert wide_open(host, NOBODY) is None


def test_what_is_shown_of_a_title_or_address_is_plain():
    assert shown_title("A\x1b[2J\xffB" + "C" * 20) == "A?[2J?B" + "C" * 9
    assert plain_address("fe80::1%eth0") == "fe80::1"
    assert plain_address("::ffff:1.2.3.4") == "1.2.3.4"
