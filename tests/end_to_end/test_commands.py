"""The commands as a user types them.

Most are called within this process, which has torch loaded: that takes a new one several seconds. As a process of its
own the demonstration runs in tests/packaging, and the node in every test that has a `NodeProcess`.
"""

import json
import re
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from importlib.resources import files
from io import StringIO
from shutil import copytree

import pytest

from dicom_gam.cli.main import app
from tests.end_to_end.peers import sample


def call(*arguments: str) -> tuple[object, str, str]:
    """Call a command within this process; returns status, output and errors."""
    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err, pytest.raises(SystemExit) as ended:
        app(list(arguments))
    return ended.value.code, out.getvalue(), " ".join(err.getvalue().split())


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "out"
    return folder, *call("demo", "--output", str(folder))


@pytest.mark.requirement("OPS-04")
def test_demo_ends_well_and_shows_every_file_with_a_reason(demo):
    folder, status, said, errors = demo
    assert status == 0, said + errors
    for name in ("RG1_UNCR.dcm", "RG3_UNCR.dcm", "CT_small.dcm", "MR_small.dcm", "US1_UNCR.dcm"):
        assert name in said
    assert len(list((folder / "overlays").glob("*.png"))) == 2
    assert "not-accepted-sop-class" in "".join(said.split())


def test_demo_can_be_shown_again_in_the_same_folder_but_not_over_something_else(demo):
    folder, *_ = demo
    (folder / "thesis.txt").write_text("mine")
    status, _, errors = call("demo", "--output", str(folder))
    (folder / "thesis.txt").unlink()
    assert (status, "thesis.txt" in errors) == (2, True)
    status, said, errors = call("demo", "--output", str(folder))
    assert status == 0, said + errors


@pytest.mark.requirement("AUD-01")
def test_audit_log_of_the_demo_is_unbroken_and_an_edit_is_found(demo):
    folder, *_ = demo
    status, said, _ = call("audit", "verify", str(folder / "node"))
    assert (status, "unbroken" in said) == (0, True)
    log = folder / "node" / "audit.jsonl"
    content = log.read_bytes()
    log.write_bytes(content.replace(b'"CT_small', b'"MR_small').replace(b"REJECT", b"PASSED", 1))
    status, _, errors = call("audit", "verify", str(folder / "node"))
    log.write_bytes(content)
    assert status == 2
    assert "record" in errors


@pytest.mark.requirement("OPS-05")
def test_run_writes_report_and_overlay_and_its_exit_status_names_the_worst_outcome(tmp_path):
    (tmp_path / "broken.dcm").write_bytes(b"this is no DICOM file")
    out = tmp_path / "out"
    inputs = [str(sample("RG1_UNCR.dcm")), str(sample("CT_small.dcm")), str(tmp_path / "broken.dcm")]
    status, said, _ = call("run", *inputs, "-o", str(out), "--json")
    assert status == 12
    chest, ct, broken = json.loads(said)
    assert chest["outcome"] in ("PASS", "FAIL", "REJECT")
    assert ct["rejection"]["reason"] == "not-accepted-sop-class"
    assert broken["rejection"]["reason"] == "unreadable"
    assert sorted(p.name.partition(".")[2] for p in out.iterdir()) == [
        "json",
        "overlay.dcm",
        "overlay.png",
        "sr.dcm",
    ]


def test_run_on_a_missing_path_says_so_and_exits_with_2(tmp_path):
    status, _, said = call("run", str(tmp_path / "nothing.dcm"))
    assert (status, "there is no such file or folder" in said) == (2, True)


@pytest.mark.requirement("BUN-04")
def test_the_built_in_bundle_is_whole_and_small():
    status, said, _ = call("bundle", "check")
    assert (status, "radiograph-anatomy" in said) == (0, True)


@pytest.mark.requirement("BUN-01")
def test_a_tampered_bundle_is_refused_by_the_files_name(tmp_path):
    copy = tmp_path / "bundle"
    copytree(str(files("dicom_gam") / "bundles" / "radiograph-anatomy"), copy)
    card = copy / "MODEL_CARD.md"
    card.write_text(card.read_text() + "\nIt is always right.\n")
    status, _, said = call("bundle", "check", str(copy))
    assert (status, "MODEL_CARD.md differs from its checksum" in said) == (2, True)


@pytest.mark.requirement("OPS-01")
def test_serve_refuses_a_misspelt_key_with_the_nearest_right_name(tmp_path):
    config = tmp_path / "node.toml"
    config.write_text("[node]\nae_titel = 'X'\n")
    python = [sys.executable, "-X", "importtime"]  # tells on standard error what is imported
    done = subprocess.run(
        [*python, "-m", "dicom_gam", "serve", "--config", str(config)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 2
    assert "did you mean ae_title?" in " ".join(done.stderr.split())
    assert "dicom_gam.config" in done.stderr
    assert not re.search(r"\| +(torch|scipy|flask)$", done.stderr, re.MULTILINE), "the mistake could be told sooner"
