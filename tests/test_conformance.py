"""The conformance documents are in step with the code, and whole."""

import ast
import re
import sys
from pathlib import Path

import pytest
from pydicom.uid import UID

from conformance.statement import __main__ as command
from conformance.statement.content_tree import drawn, tree
from conformance.statement.documents import documents
from conformance.statement.examples import CLASS, source
from conformance.statement.markdown import filled
from conformance.statement.objects import Objects
from conformance.statement.provenance import Origins
from dicom_gam.dicom.image.acceptance import ACCEPTED_TRANSFER_SYNTAXES
from dicom_gam.dicom.result import codes
from dicom_gam.dicom.result.reference import IMAGE, PATIENT_AND_STUDY
from dicom_gam.dicom.scp.listener_options import ListenerOptions
from dicom_gam.dicom.statuses import StoreStatus
from dicom_gam.records import Reason, Verdict

_IMAGE_COMMENTS = "the bundle, the figures of the verification and the verdict"
_IDENTITY = "the source image, the settings and the bundle"
ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "conformance"
STATEMENT, CODES, IHE, INDEX = (
    (FOLDER / f"{name}.md").read_text(encoding="utf-8") for name in ("STATEMENT", "CODES", "IHE", "README")
)


@pytest.fixture(scope="module")
def made() -> Objects:
    return Objects()


@pytest.fixture(scope="module")
def written(made) -> dict[str, str]:
    return documents(made)


@pytest.fixture(scope="module")
def origins(made) -> Origins:
    return made.origins


@pytest.mark.requirement("OPS-09")
@pytest.mark.parametrize("name", ["STATEMENT.md", "CODES.md", "README.md"])
def test_the_document_is_what_the_code_says_today(written, name):
    assert (FOLDER / name).read_text(encoding="utf-8") == written[name], "run: python -m conformance.statement"


def test_the_check_prints_what_differs_and_writes_nothing(written, tmp_path, monkeypatch, capsys):
    for name, text in written.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.setattr(command, "documents", lambda: written)
    monkeypatch.setattr(command, "FOLDER", tmp_path)
    monkeypatch.setattr(sys, "argv", ["statement", "--check"])
    assert command.main() == 0
    edited = written["CODES.md"].replace("Predicted class", "Another meaning")
    (tmp_path / "CODES.md").write_text(edited, encoding="utf-8")
    assert command.main() == 1
    assert re.search(r"^-.*Another meaning.*\n\+.*Predicted class", capsys.readouterr().out, re.MULTILINE)
    assert (tmp_path / "CODES.md").read_text(encoding="utf-8") == edited


@pytest.mark.requirement("OPS-09")
def test_every_class_and_syntax_that_is_accepted_is_named():
    options = ListenerOptions(ae_title="X", host="", port=0)
    assert [uid for uid in options.sop_classes if f"| {UID(uid).name} | `{uid}` |" not in STATEMENT] == []
    assert [uid for uid in ACCEPTED_TRANSFER_SYNTAXES if f"| {UID(uid).name} | `{uid}` |" not in STATEMENT] == []


@pytest.mark.requirement("OPS-09")
def test_every_status_and_reason_of_ours_is_named():
    answered = set(re.findall(r"^\| C-STORE \| .+? \| `(\w{4})` \|", STATEMENT, re.MULTILINE))
    assert answered == {f"{status:04X}" for status in StoreStatus}
    assert [reason for reason in Reason if f"`{reason}`" not in STATEMENT] == []


@pytest.mark.requirement("RES-19")
def test_every_code_is_in_the_table_of_codes():
    assert [c.value for c in codes.PRIVATE_CODES if f"| `{c.value}` | {c.meaning} |" not in CODES] == []
    assert [c.value for c in codes.STANDARD_CODES if f"| {c.scheme} | `{c.value}` | {c.meaning} |" not in CODES] == []


def test_the_example_sources_give_every_attribute_that_results_may_inherit_two_values():
    one, other = source(1), source(2)
    inherited = [keyword for keyword in (*PATIENT_AND_STUDY, *IMAGE) if keyword != "SOPClassUID"]
    assert [keyword for keyword in inherited if one.get(keyword) == other.get(keyword)] == []


@pytest.mark.parametrize(
    ("role", "name", "presence", "origin"),
    [
        ("sr", "Patient's Name", "VNAP: empty when the source has none", "copied from the source image"),
        ("sr", "Completion Flag", "ALWAYS", "fixed: `COMPLETE`"),
        ("sr", "Institution Name", "ANAP: when it is set", "`<output.institution_name>`"),
        ("sr", "Predecessor Documents Sequence", "ANAP: on reprocessing", ""),
        ("sr", "Series Description", "ALWAYS", "`AI verification report - <verdict>`"),
        ("overlay", "> Referenced SOP Instance UID", "ALWAYS", "the source image's SOP Instance UID"),
        (
            "overlay",
            "Image Comments",
            "ALWAYS",
            f"worked out from {_IMAGE_COMMENTS}",
        ),
        ("region", "Rows", "ALWAYS", "copied from the source image"),
        (
            "rejection",
            "SOP Instance UID",
            "ALWAYS",
            f"derived UID (UUIDv5) of {_IDENTITY}",
        ),
    ],
)
def test_the_origin_of_an_attribute_is_found_by_changing_one_thing_at_a_time(origins, role, name, presence, origin):
    [found] = [one for one in origins.attributes(role) if one.name == name]
    assert (found.presence, found.origin) == (presence, origin)


@pytest.mark.requirement("SAF-01")
def test_no_example_of_a_refused_image_names_the_class(origins):
    for verdict in (Verdict.FAIL, Verdict.REJECT):
        for role, dataset in origins.firsts[verdict].encoded().items():
            text = str(dataset.to_json_dict(bulk_data_threshold=1 << 30)).lower()
            assert CLASS.value not in text, role
            assert CLASS.meaning.lower() not in text, role
            assert "chest" not in text, role
    assert CLASS.value in str(origins.firsts[Verdict.PASS].encoded()["sr"])


def test_the_tree_says_how_often_an_item_stands_and_with_which_verdict(origins):
    reports = {str(verdict): example.encoded()["sr"] for verdict, example in origins.firsts.items()}
    lines = drawn(tree(reports, {})).splitlines()
    assert lines[0] == '1 CONTAINER (126000, DCM, "Imaging Measurement Report") TID 1500'
    [finding] = [line for line in lines if "PASS: the predicted class" in line]
    assert 'FAIL, REJECT: (373068000, SCT, "Undetermined")' in finding
    [predicted] = [line for line in lines if "PRED_CLASS" in line]
    assert "0..1 CONTAINS CODE" in predicted
    assert predicted.endswith("[PASS only]")


def test_a_template_is_filled_as_a_whole():
    assert filled("a {{b}} c", {"b": "x"}) == "a x c"
    with pytest.raises(ValueError, match=r"without a part: \['b'\]; without a place: \['d'\]"):
        filled("a {{b}} c", {"d": "x"})


@pytest.mark.requirement("OPS-10")
def test_every_test_that_the_ihe_page_names_exists():
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", IHE)
    assert len(named) > 30
    assert [path for path, _ in named if not (ROOT / path).exists()] == []
    assert [f"{path}::{test}" for path, test in named if test and test not in _functions(ROOT / path)] == []


@pytest.mark.requirement("OPS-10")
def test_the_ihe_page_claims_nothing_as_met_without_a_test():
    rows = [line for line in IHE.splitlines() if re.search(r"\| (met|partly)\b", line)]
    assert rows
    assert [row for row in rows if "tests/" not in row] == []


def test_the_index_lists_every_document_and_every_decision():
    there = {path.relative_to(FOLDER).as_posix() for path in (*FOLDER.glob("*.md"), *FOLDER.glob("decisions/*.md"))}
    assert set(re.findall(r"\]\(([\w/.-]+\.md)\)", INDEX)) == there - {"README.md"}


@pytest.mark.parametrize("name", ["STATEMENT", "CODES", "README", "CHANGES"])
def test_every_relative_link_of_the_folder_leads_somewhere(name):
    links = re.findall(r"\]\(([^)#:]+)\)", (FOLDER / f"{name}.md").read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if not (FOLDER / link).exists()] == []


def _functions(path: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.FunctionDef)}
