from __future__ import annotations

import csv
import hashlib
import io
import json
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise

import jsonschema_rs
import pytest
from lxml import html as parsed_html
from PIL import Image

from dicom_gam.errors import ConfigError
from dicom_gam.service.dossier import Scope, ScopeKind, assemble
from dicom_gam.service.dossier_document import CHECK_PROGRAM
from dicom_gam.service.dossier_export import export, name_of, scope_of
from dicom_gam.service.dossier_html import write_html
from dicom_gam.service.dossier_pdf import write_pdf
from dicom_gam.service.dossier_tables import SCHEMA, cell
from dicom_gam.service.dossier_words import plain
from dicom_gam.storage.audit import records
from dicom_gam.storage.audit_index import AuditIndex
from tests.service.dossier_store import IMAGE, JOB, STUDY, add_waiting, real_store

ABOUT_STUDY = Scope(ScopeKind.STUDY, STUDY)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    with real_store(tmp_path_factory.mktemp("dossier") / "node") as made:
        add_waiting(made, 1)
        yield made


@pytest.fixture(scope="module")
def dossier(store):
    index = AuditIndex(store.folder)
    yield assemble(store, index, ABOUT_STUDY, "auditor")
    index.close()


@pytest.fixture(scope="module")
def page(dossier):
    file = io.BytesIO()
    write_html(dossier, file)
    return file.getvalue().decode()


@pytest.fixture(scope="module")
def paper(dossier):
    file = io.BytesIO()
    write_pdf(dossier, file)
    return file.getvalue()


def text_of(page: str) -> str:
    return " ".join(parsed_html.fromstring(page.encode()).text_content().split())


@pytest.mark.requirement("DOS-05")
def test_a_dossier_answers_what_came_what_was_decided_what_was_sent_and_who_did_what(store, page):
    words = text_of(page)
    result = next(record for record in records(store.folder / "audit.jsonl") if record["event"] == "job.result")["keys"]
    outputs = result["outputs"]
    for answer in (
        *("10.0.0.7", "ab" * 32, "cd" * 32, "123456 bytes", IMAGE, STUDY),  # what came
        *("FAIL: A check was failed", "attention: does not match", "radiograph-anatomy 1.0.0", "ab" * 32),
        *("0.0040", "at least 0.5", "0.31", "hirescam", "alpha 0.05"),  # on which figures
        result["settings_digest"],
        result["made_with"],
        *(output["sha256"] for output in outputs),
        *(output["sop_instance_uid"] for output in outputs),
        *("stored (status 0000)", "refused: out of resources (status A700)", "NOT delivered"),
        *("dr.roe", "Looked at: job", "Reader's own judgement counts instead: hand"),  # who did what
        *("The audit log is whole", "dicom-gam audit verify"),
    ):
        assert answer.replace("0.0040", "0.004") in words, answer
    assert json.dumps(json.loads(store.evidence.read(result["settings_digest"])), sort_keys=True) in words


@pytest.mark.requirement("DOS-06")
def test_the_html_has_nothing_from_elsewhere_no_script_and_shows_overlay_and_attention_map(page):
    tree = parsed_html.fromstring(page.encode())
    assert tree.xpath("//script | //link | //iframe | //object | //*[@onload or @onerror or @style]") == []
    assert "alert(" in tree.text_content()  # a reason that somebody typed, as text
    pictures = tree.xpath("//img/@src")
    assert [source.partition(",")[0] for source in pictures] == ["data:image/png;base64"] * 2
    assert all(image.get("alt") for image in tree.xpath("//img"))
    assert "\x00" not in page
    assert "\u202e" not in page
    levels = [int(heading.tag[1]) for heading in tree.xpath("//h1 | //h2 | //h3")]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


@pytest.mark.requirement("DOS-07")
def test_the_pdf_says_the_same_with_every_uid_and_digest_whole(store, paper, tmp_path):
    path = tmp_path / "dossier.pdf"
    path.write_bytes(paper)
    shown = subprocess.run(
        ["pdftotext", "-layout", str(path), "-"], check=True, capture_output=True, text=True, timeout=60
    ).stdout
    pages = shown.count("\f")
    assert f"page 1 of {pages}" in shown
    assert f"page {pages} of {pages}" in shown
    raw = subprocess.run(["pdftotext", "-raw", str(path), "-"], check=True, capture_output=True, text=True, timeout=60)
    joined = "".join(raw.stdout.split())
    result = next(record for record in records(store.folder / "audit.jsonl") if record["event"] == "job.result")["keys"]
    for output in result["outputs"]:
        assert output["sha256"] in joined
        assert output["sop_instance_uid"] in joined
    assert '<script>alert("x")</script>' in joined
    pictured = tmp_path / "page"
    subprocess.run(["pdftoppm", "-r", "50", "-png", str(path), str(pictured)], check=True, timeout=60)
    for picture in sorted(tmp_path.glob("page*.png")):  # nothing is drawn into the margins
        with Image.open(picture).convert("L") as grey:
            right = grey.crop((int(grey.width * 0.935), 0, grey.width, grey.height))
            assert right.getextrema()[0] > 200, picture.name


def test_the_same_dossier_gives_the_same_bytes(dossier):
    short = replace(dossier, images=[], settings={})
    first, again = io.BytesIO(), io.BytesIO()
    write_pdf(short, first)
    write_pdf(short, again)
    assert again.getvalue() == first.getvalue()


@pytest.mark.requirement("DOS-08")
def test_the_json_holds_every_record_byte_for_byte_so_that_its_digests_can_be_computed_without_us(store, tmp_path):
    written = export(store, ABOUT_STUDY, ["json"], tmp_path, by="auditor")[0]
    content = json.loads(written.path.read_bytes())
    jsonschema_rs.validator_for(SCHEMA).validate(content)
    assert json.loads((tmp_path / "dossier.schema.json").read_text()) == SCHEMA
    lines = (store.folder / "audit.jsonl").read_bytes().splitlines()
    for entry in content["records"]:
        assert entry["sha256"] == hashlib.sha256(lines[entry["record"]["number"] - 1]).hexdigest()
    program = tmp_path / "check.py"
    program.write_text(CHECK_PROGRAM)
    command = [sys.executable, "-I", str(program), str(written.path)]
    assert subprocess.run(command, check=False, timeout=60, capture_output=True).returncode == 0
    written.path.write_bytes(written.path.read_bytes().replace(b'"attempt":1', b'"attempt":2', 1))
    assert subprocess.run(command, check=False, timeout=60, capture_output=True).returncode == 1


@pytest.mark.requirement("DOS-09")
@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t=", " =", "\r@", "\uff1d"])
def test_no_cell_of_the_csv_begins_as_a_formula(start):
    assert cell(start + "1+1").startswith("'")
    assert cell("1" + start) == plain("1" + start)


@pytest.mark.requirement("DOS-09")
def test_the_csv_has_a_row_for_each_record_on_one_line_each(store, dossier, tmp_path):
    written = export(store, ABOUT_STUDY, ["csv"], tmp_path, by="auditor")[0]
    content = written.path.read_bytes()
    rows = list(csv.DictReader(io.StringIO(content.decode(), newline=""), strict=True))
    assert len(rows) >= dossier.count
    assert content.count(b"\r\n") == len(rows) + 1  # nobody's line end breaks a row
    assert {row["event"] for row in rows} >= {"instance.stored", "job.result", "delivery.dead", "result.overridden"}
    assert not any(value.startswith(("=", "+", "-", "@")) for row in rows for value in row.values())
    assert json.loads(rows[0]["keys"])["sop_instance_uid"] == IMAGE


@pytest.mark.requirement("DOS-10")
def test_an_export_is_on_record_with_the_digests_of_what_was_written(store, tmp_path):
    made = export(store, Scope(ScopeKind.JOB, JOB), ["html", "csv"], tmp_path, by="auditor", address="10.1.1.1")
    last = list(records(store.folder / "audit.jsonl"))[-1]
    assert last["event"] == "audit.exported"
    assert (last["keys"]["job_id"], last["keys"]["by"], last["keys"]["address"]) == (JOB, "auditor", "10.1.1.1")
    assert [file["sha256"] for file in last["keys"]["files"]] == [
        hashlib.sha256(written.path.read_bytes()).hexdigest() for written in made
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(written.path.name for written in made)


@pytest.mark.requirement("DOS-11")
def test_a_dossier_of_a_broken_log_says_so_first(tmp_path):
    with real_store(tmp_path / "node") as store:
        path = store.folder / "audit.jsonl"
        path.write_bytes(path.read_bytes().replace(b'"attempt":1,"job_id"', b'"attempt":3,"job_id"', 1))
        made = export(store, ABOUT_STUDY, ["html"], tmp_path / "out", by="auditor")[0]
    words = text_of(made.path.read_text())
    assert "THE AUDIT LOG IS BROKEN: do not rely on this dossier." in words
    assert "record 3 " in words


def test_a_result_file_that_is_gone_or_replaced_is_not_passed_off_as_the_one_on_record(tmp_path):
    with real_store(tmp_path / "node") as store:
        result = store.jobs.get(JOB).result
        digest = next(output["sha256"] for output in result["outputs"] if output["role"] == "overlay")
        store.results.path(digest).write_bytes(b"another")
        index = AuditIndex(store.folder)
        (story,) = assemble(store, index, ABOUT_STUDY, "auditor").images
        assert [picture.png == b"" for picture in story.pictures] == [True, False]
        assert "NOT the one that is on record" in story.pictures[0].why_not
        store.results.remove(digest)
        (story,) = assemble(store, index, ABOUT_STUDY, "auditor").images
        assert "no longer kept" in story.pictures[0].why_not
        index.close()


@pytest.mark.requirement("DOS-12")
def test_a_period_has_a_row_for_each_job_and_the_acts_of_people(store, tmp_path):
    scope = Scope(ScopeKind.PERIOD, since=time.time() - 3600)
    made = {written.path.suffix: written.path for written in export(store, scope, ["html", "json"], tmp_path, by="me")}
    words = text_of(made[".html"].read_text())
    content = json.loads(made[".json"].read_bytes())
    jsonschema_rs.validator_for(SCHEMA).validate(content)
    assert {line["job_id"]: line["outcome"] for line in content["jobs"]}[JOB] == "FAIL"
    assert len(content["jobs"]) == 2
    assert content["range"]["count"] == len(content["records"])
    assert "What had" not in words
    assert "What pacs had not taken was ordered to be sent again" in words
    assert "Images by verdict" in words


def test_what_nothing_is_on_record_about_is_refused_in_words(store, tmp_path):
    for scope in (
        Scope(ScopeKind.STUDY, "1.2.3"),
        Scope(ScopeKind.JOB, "../../etc/passwd"),
        Scope(ScopeKind.PERIOD, until=1.0),
        Scope(ScopeKind.PERIOD, since=2.0, until=1.0),
    ):
        with pytest.raises(ConfigError):
            export(store, scope, ["html"], tmp_path / "none", by="me")
    with pytest.raises(ConfigError, match="no format exe"):
        export(store, ABOUT_STUDY, ["exe"], tmp_path / "none", by="me")


def test_the_files_name_leads_nowhere():
    assert name_of(Scope(ScopeKind.JOB, "../../etc/passwd\n")) == "dossier-job-etcpasswd"
    assert name_of(Scope(ScopeKind.STUDY, "..")) == "dossier-study-unnamed"


def test_a_scope_is_one_thing_and_a_day_alone_is_taken_until_its_end():
    day = scope_of("", "", "2026-03-04", "2026-03-04")
    assert day.until - day.since in (82800.0, 86400.0, 90000.0)
    for wanted in (("", "", "", ""), ("1.2", "a", "", ""), ("1.2", "", "2026-01-01", "")):
        with pytest.raises(ConfigError, match="only one"):
            scope_of(*wanted)
    for words in ("yesterday", "9999-12-31", "0001-01-01", "2026-13-01", "\x00"):
        with pytest.raises(ConfigError, match="is no time"):
            scope_of("", "", "", words) if words == "9999-12-31" else scope_of("", "", words, "2026-01-01")


def test_a_look_at_the_study_after_the_export_is_in_the_next_one(store):
    index = AuditIndex(store.folder)
    before = assemble(store, index, ABOUT_STUDY, "auditor")
    store.audit.append("access.looked", what="study", study_instance_uid=STUDY, by="dr.roe")
    assert assemble(store, index, ABOUT_STUDY, "auditor").count == before.count + 1
    index.close()


def test_words_show_control_characters_for_what_they_are():
    assert plain("a\r\nb\tc\x00\u202e") == "a ↵ b c\ufffd\ufffd"
