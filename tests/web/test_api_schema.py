"""The API keeps to its OpenAPI document, whatever is sent to it. For long: `python -m tests.web.fuzz_api`."""

from __future__ import annotations

from collections import Counter

import jsonschema_rs
import pytest

from dicom_gam.web.access import PERMISSIONS
from dicom_gam.web.app import make_app
from dicom_gam.web.site import Site
from tests.web.fuzz_api import DOCUMENT, faults
from tests.web.logged_in import logged_in
from tests.web.made_site import made_settings, made_store

EXAMPLES = 4


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    return made_settings(tmp_path_factory.mktemp("schema") / "node")


@pytest.fixture(scope="module")
def store(settings):
    with made_store(settings, jobs=20) as made:
        yield made


@pytest.fixture(scope="module")
def document(settings, store):
    return logged_in(make_app(Site(settings, store)), "viewer").get(DOCUMENT).get_json()


@pytest.mark.requirement("API-12")
@pytest.mark.parametrize("role", [*PERMISSIONS, "nobody"])
def test_schemathesis_finds_nothing(settings, store, role):
    app, told = make_app(Site(settings, store)), Counter()
    assert list(faults(app, store, [role], EXAMPLES, told)) == []
    statuses = {int(label.rpartition(" ")[2]) for label in told}
    assert {"nobody": {401}, "viewer": {200, 403}, "auditor": {200, 403}, "operator": {200, 403}}[role] <= statuses
    assert not statuses & set(range(500, 600))


@pytest.mark.requirement("API-12")
def test_the_document_is_openapi_3_1_and_every_schema_in_it_is_sound(document):
    assert document["openapi"].startswith("3.1")
    for schema in document["components"]["schemas"].values():
        assert jsonschema_rs.meta.is_valid(schema)
    assert "$defs" not in str(document)


@pytest.mark.requirement("API-12")
def test_every_operation_says_who_may_call_it_and_what_it_answers(document):
    operations = [item for path in document["paths"].values() for item in path.values()]
    assert len(operations) >= 13
    for operation in operations:
        assert operation["summary"]
        assert operation["security"] == [{"token": []}, {"session": []}]
        assert {"400", "401", "403", "422", "429", "503"} <= operation["responses"].keys()
        for status, answer in operation["responses"].items():
            if int(status) >= 400:
                assert list(answer["content"]) == ["application/problem+json"]
    assert len({operation["operationId"] for operation in operations}) == len(operations)


def test_the_document_and_what_serves_it_load_nothing_from_elsewhere(document, settings, store):
    client = logged_in(make_app(Site(settings, store)), "viewer")
    assert "http" not in str(document["info"])
    assert client.get("/openapi/").status_code == 404
    assert client.get("/openapi/swagger").status_code == 404
