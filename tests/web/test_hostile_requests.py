"""Hostile values in every parameter of every page and of the API, and a hostile patient's name on every page."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import quote

import pytest

import dicom_gam.web
from dicom_gam.web.app import make_app
from dicom_gam.web.site import Site
from tests.web.logged_in import logged_in
from tests.web.made_site import HOSTILE, made_settings, made_store

ALL_ROLES = ("viewer", "operator", "auditor")
SCRIPT = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>"

# As they stand in a URL; what isn't encoded yet is encoded before it is sent.
ENCODED = ("..%2f..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e/etc/passwd", "%252e%252e%252fetc%252fpasswd", "%00", "%ff%fe")
PLAIN = (
    "/etc/passwd", "a\r\nX: 1", "x" * 10_000, "' OR '1'='1' --", SCRIPT, "9" * 400, "-9223372036854775809", "1e400",
    "nan", "2025-02-30", "0000-00-00", "{{7*7}}", "%s%n", "☃\u202e",
)  # fmt: skip


@pytest.fixture(scope="module")
def app_of_all(tmp_path_factory):
    """One application for all, as nothing is changed by GET; and somebody who may see everything."""
    settings = made_settings(tmp_path_factory.mktemp("hostile") / "node")
    with made_store(settings) as store:
        app = make_app(Site(settings, store))
        app.config["PROPAGATE_EXCEPTIONS"] = False
        yield app, logged_in(app, *ALL_ROLES)


def parameters(app):
    """Every name of a query parameter that a view reads or the API describes."""
    names = {"next", "before", "limit"}
    for module in Path(dicom_gam.web.__file__).parent.glob("*.py"):
        names |= set(re.findall(r"args(?:\.get|\.getlist)?[(\[]\s*\"(\w+)\"", module.read_text()))
    for path in app.api_doc["paths"].values():
        for operation in path.values():
            names |= {one["name"] for one in operation.get("parameters", ()) if one["in"] == "query"}
    return sorted(names)


def get_rules(app):
    """The rules of all pages and of the API that are read by GET."""
    return [rule for rule in app.url_map.iter_rules() if "GET" in rule.methods and rule.endpoint != "static"]


def url_with(rule, encoded):
    return re.sub(r"<[^>]+>", lambda _: encoded, rule.rule)


@pytest.mark.requirement("ACC-17")
@pytest.mark.parametrize("value", [*ENCODED, *PLAIN], ids=lambda value: ascii(value)[:24])
def test_a_hostile_value_in_any_parameter_breaks_nothing_and_comes_back_escaped(app_of_all, value):
    app, client = app_of_all
    encoded = value if value in ENCODED else quote(value, safe="")
    query = "&".join(f"{name}={encoded}" for name in parameters(app))
    for rule in get_rules(app):
        with client.get(f"{url_with(rule, encoded)}?{query}") as answer:
            assert answer.status_code < 500, rule.rule
            if answer.mimetype == "text/html":
                assert SCRIPT not in answer.text, rule.rule
                assert "<img src=x" not in answer.text, rule.rule
            assert b"root:x:0:0" not in answer.data, rule.rule
            assert "X" not in answer.headers, rule.rule


@pytest.mark.requirement("ACC-17")
@pytest.mark.parametrize("path", ["../../../../etc/passwd", "..%2f..%2fapp.py", "%2e%2e/app.py", "/etc/passwd", "a\0b"])
def test_static_files_are_those_of_the_folder_only(app_of_all, path):
    _, client = app_of_all
    assert client.get(f"/static/{path}", follow_redirects=True).status_code == 404


@pytest.mark.requirement("ACC-17")
def test_a_hostile_patient_name_is_escaped_on_every_page_that_shows_it(app_of_all):
    app, client = app_of_all
    store = app.extensions["dicom_gam"].store
    shown = set()
    with store.database.reading() as connection:
        rows = connection.execute(
            "SELECT job_id, study_instance_uid FROM jobs JOIN job_headers USING (number) WHERE patient_name = ?",
            (HOSTILE,),
        ).fetchall()
    assert rows
    for rule in get_rules(app):
        for row in rows if rule.arguments else rows[:1]:
            values = {"job_id": row["job_id"], "study_instance_uid": row["study_instance_uid"]}
            url = rule.build({name: values.get(name, "1") for name in rule.arguments})[1]
            with client.get(url) as answer:
                assert answer.status_code < 500, url
                if answer.mimetype == "text/html":
                    assert "<script>alert(1)" not in answer.text, url
                    if "&lt;script&gt;alert(1)" in answer.text:
                        shown.add(rule.endpoint)
    assert {"studies.page", "studies.study", "studies.job"} <= shown
