"""The commands as a user types them."""

import json
import subprocess
import sys
from importlib.resources import files
from shutil import copytree

import pytest

from dicom_gam.cli.main import app
from tests.end_to_end.peers import sample


def command(*arguments: str, timeout_s: float = 120) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "dicom_gam", *arguments], capture_output=True, text=True, check=False, timeout=timeout_s
    )


@pytest.fixture
def typed(capsys):
    """Call a command within this process, which has everything loaded already; returns status, output and errors."""

    def call(*arguments: str) -> tuple[object, str, str]:
        with pytest.raises(SystemExit) as ended:
            app(list(arguments))
        out, err = capsys.readouterr()
        return ended.value.code, out, " ".join(err.split())

    return call


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "out"
    return folder, command("demo", "--output", str(folder))


@pytest.mark.requirement("OPS-04")
def test_demo_ends_well_and_shows_every_file_with_a_reason(demo):
    folder, done = demo
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("RG1_UNCR.dcm", "RG3_UNCR.dcm", "CT_small.dcm", "MR_small.dcm", "US1_UNCR.dcm"):
        assert name in done.stdout
    assert len(list((folder / "overlays").glob("*.png"))) == 2
    assert "not-accepted-sop-class" in "".join(done.stdout.split())


def test_demo_can_be_shown_again_in_the_same_folder_but_not_over_something_else(demo):
    folder, _ = demo
    (folder / "thesis.txt").write_text("mine")
    refused = command("demo", "--output", str(folder))
    (folder / "thesis.txt").unlink()
    assert (refused.returncode, "thesis.txt" in refused.stderr) == (2, True)
    assert command("demo", "--output", str(folder)).returncode == 0


@pytest.mark.requirement("AUD-01")
def test_audit_log_of_the_demo_is_unbroken_and_an_edit_is_found(demo):
    folder, _ = demo
    whole = command("audit", "verify", str(folder / "node"))
    assert (whole.returncode, "unbroken" in whole.stdout) == (0, True)
    log = folder / "node" / "audit.jsonl"
    content = log.read_bytes()
    log.write_bytes(content.replace(b'"CT_small', b'"MR_small').replace(b"REJECT", b"PASSED", 1))
    broken = command("audit", "verify", str(folder / "node"))
    log.write_bytes(content)
    assert broken.returncode == 2
    assert "record" in broken.stderr


@pytest.mark.requirement("OPS-05")
def test_run_writes_report_and_overlay_and_its_exit_status_names_the_worst_outcome(tmp_path):
    (tmp_path / "broken.dcm").write_bytes(b"this is no DICOM file")
    out = tmp_path / "out"
    inputs = [str(sample("RG1_UNCR.dcm")), str(sample("CT_small.dcm")), str(tmp_path / "broken.dcm")]
    done = command("run", *inputs, "-o", str(out), "--json")
    assert done.returncode == 12
    chest, ct, broken = json.loads(done.stdout)
    assert chest["outcome"] in ("PASS", "FAIL", "REJECT")
    assert ct["rejection"]["reason"] == "not-accepted-sop-class"
    assert broken["rejection"]["reason"] == "unreadable"
    assert sorted(p.name.partition(".")[2] for p in out.iterdir()) == [
        "json",
        "overlay.dcm",
        "overlay.png",
        "sr.dcm",
    ]


def test_run_on_a_missing_path_says_so_and_exits_with_2(typed, tmp_path):
    status, _, said = typed("run", str(tmp_path / "nothing.dcm"))
    assert (status, "there is no such file or folder" in said) == (2, True)


@pytest.mark.requirement("BUN-04")
def test_the_built_in_bundle_is_whole_and_small(typed):
    status, said, _ = typed("bundle", "check")
    assert (status, "radiograph-anatomy" in said) == (0, True)


@pytest.mark.requirement("BUN-01")
def test_a_tampered_bundle_is_refused_by_the_files_name(typed, tmp_path):
    copy = tmp_path / "bundle"
    copytree(str(files("dicom_gam") / "bundles" / "radiograph-anatomy"), copy)
    card = copy / "MODEL_CARD.md"
    card.write_text(card.read_text() + "\nIt is always right.\n")
    status, _, said = typed("bundle", "check", str(copy))
    assert (status, "MODEL_CARD.md differs from its checksum" in said) == (2, True)


@pytest.mark.requirement("OPS-01")
def test_serve_refuses_a_misspelt_key_with_the_nearest_right_name(tmp_path):
    config = tmp_path / "node.toml"
    config.write_text("[node]\nae_titel = 'X'\n")
    done = command("serve", "--config", str(config))
    assert done.returncode == 2
    assert "did you mean ae_title?" in " ".join(done.stderr.split())
