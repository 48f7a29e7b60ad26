"""What is done to a log of several signed files behind our back is found, and the right record is named."""

import random

import pytest

from dicom_gam.errors import AuditError
from tests.storage.made_audit_log import MUTATIONS, make_log, rewrite_the_rest

PER_KIND = 12


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return make_log(tmp_path_factory.mktemp("log"), 300, segment_bytes=25_000, signed_every=40, at_once=10)


@pytest.mark.requirement("AUD-01")
@pytest.mark.parametrize("mutate", MUTATIONS, ids=lambda function: function.__name__)
def test_each_mutation_is_found_and_the_right_record_named(log, mutate):
    assert len({name for name, _ in log.lines}) >= 4
    for seed in range(PER_KIND):
        done = mutate(log, random.Random(seed))
        log.put(done.lines, done.gone)
        try:
            with pytest.raises(AuditError) as caught:
                log.verify(done.head)
        finally:
            log.restore()
        assert caught.value.record == done.record, (seed, str(caught.value))
    found = log.verify()
    assert (found.records, found.signed_to) == (300, 300)


@pytest.mark.requirement("AUD-09")
def test_a_rewritten_log_is_told_with_the_last_record_that_signatures_vouch_for(log):
    signed = [number for number, (_, line) in enumerate(log.lines, 1) if b'"audit.checkpoint"' in line]
    done = rewrite_the_rest(log, random.Random(3))
    good = max((number for number in signed if number < done.record), default=0)
    log.put(done.lines)
    try:
        told = f"Signatures vouch for the records up to {good}." if good else "No signature comes before it."
        with pytest.raises(AuditError, match=told):
            log.verify(done.head)
    finally:
        log.restore()
