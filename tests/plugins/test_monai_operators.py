"""The MONAI Deploy operators, on a stand-in for the App SDK that is held to the real one's behaviour by `make monai`.

What `dicom-gam run` says is recorded once from the command itself, in this process; the operators get it from a small
program that says it again, for a process of its own would take the suite longer than all of these tests.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import json
import logging
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from pydicom import dcmread
from pydicom.uid import generate_uid
from typer.testing import CliRunner

from tests.end_to_end.peers import sample
from tests.plugins.monai_contract import EXPECTED, observe
from tests.plugins.monai_stand_in import modules

APP = Path(__file__).parents[2] / "plugins" / "monai_deploy" / "app"
OURS = ("app", "node_command", "radiograph_operators")
REPLAY = """
import hashlib, json, pathlib, shutil, sys
recorded = pathlib.Path({recorded!r})
run, folder, out, output = sys.argv[1:5]
assert (run, out, sys.argv[5:]) == ("run", "--output", ["--json"]), sys.argv
answers = json.loads((recorded / "answers.json").read_text())
said = []
pathlib.Path(output).mkdir()
for number, path in enumerate(sorted(pathlib.Path(folder).iterdir())):
    answer = answers[hashlib.sha256(path.read_bytes()).hexdigest()]
    written = [f"{{output}}/{{number:04d}}-{{path.stem}}.{{name.split('.', 1)[1]}}" for name in answer["written"]]
    for name, copy in zip(answer["written"], written):
        shutil.copy(recorded / "out" / name, copy)
    said.append({{**answer, "file": str(path), "written": written}})
(pathlib.Path(output) / "results.json").write_text(json.dumps(said))
print(json.dumps(said))
sys.exit(max(dict(PASS=0, FAIL=10, REJECT=11).get(item["outcome"], 12) for item in said))
"""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chest, a chest with a hidden middle, a leg, a CT, a damaged image and a text; the names are a patient's."""
    folder = tmp_path_factory.mktemp("input")
    for name, source in (("PASS", "RG1_UNCR.dcm"), ("REJECT", "RG3_UNCR.dcm"), ("CT", "CT_small.dcm")):
        shutil.copy(sample(source), folder / f"DOE^JANE {name}.dcm")
    (folder / "deeper").mkdir()
    _hide_middle(folder / "deeper" / "DOE^JANE FAIL.dcm")
    (folder / "DOE^JANE DAMAGED.dcm").write_bytes(sample("RG1_UNCR.dcm").read_bytes()[:1500])
    (folder / "DOE^JANE.txt").write_text("no image")
    return folder


def _hide_middle(path: Path) -> None:
    """The network still says chest, but looks elsewhere than at a chest."""
    ds = dcmread(sample("RG1_UNCR.dcm"))
    pixels = ds.pixel_array.copy()
    rows, columns = pixels.shape
    pixels[rows * 35 // 100 : rows * 65 // 100, columns * 35 // 100 : columns * 65 // 100] = pixels.max()
    ds.PixelData = pixels.tobytes()
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["hidden middle"])
    ds.save_as(path)


@pytest.fixture(scope="module")
def recorded(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `dicom-gam run` says of each image, by the image's digest, and the files that it writes."""
    from dicom_gam.cli.main import app  # noqa: PLC0415 (torch is loaded only by tests that need it)

    folder = tmp_path_factory.mktemp("recorded")
    config = folder / "node.toml"
    config.write_text("[decoding]\nprocesses = 0\n")
    told = CliRunner().invoke(
        app, ["run", str(images), "--output", str(folder / "out"), "--json", "--config", str(config)]
    )
    assert told.exit_code == 12, told.output
    answers = {}
    for answer in json.loads(told.stdout):
        answer["written"] = [Path(name).name for name in answer.get("written", [])]
        answers[hashlib.sha256(Path(answer["file"]).read_bytes()).hexdigest()] = answer
    (folder / "answers.json").write_text(json.dumps(answers))
    return folder


@pytest.fixture
def ours(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """The plugin's modules, on the stand-in."""
    for name, module in modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.syspath_prepend(str(APP))
    yield SimpleNamespace(**{name: importlib.import_module(name) for name in OURS})
    for name in OURS:
        del sys.modules[name]


@pytest.fixture
def replay(recorded: Path, tmp_path: Path) -> list[str]:
    return _program(tmp_path / "replay.py", REPLAY.format(recorded=str(recorded)))


def _program(path: Path, text: str) -> list[str]:
    path.write_text(text)
    return [sys.executable, "-S", str(path)]


@pytest.fixture
def run_application(ours: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Runs the application's `main` as a package would; returns its output folder."""

    def run(input_folder: Path, command: list[str]) -> Path:
        settings = yaml.safe_load((APP / "app.yaml").read_text())
        settings["verification"]["command"] = command
        (tmp_path / "app.yaml").write_text(yaml.safe_dump(settings))
        monkeypatch.setenv("HOLOSCAN_CONFIG_PATH", str(tmp_path / "app.yaml"))
        monkeypatch.setattr(sys, "argv", ["app", "-i", str(input_folder), "-o", str(tmp_path / "output")])
        ours.app.main()
        return tmp_path / "output"

    return run


@pytest.mark.requirement("MON-01")
def test_every_file_of_the_input_gets_a_verdict_whatever_its_neighbours_are(run_application, images, replay):
    output = run_application(images, replay)
    verdicts = {Path(item["file"]).name: item for item in json.loads((output / "verdicts.json").read_text())}
    assert {name: item["outcome"] for name, item in verdicts.items()} == {
        "DOE^JANE PASS.dcm": "PASS",
        "DOE^JANE FAIL.dcm": "FAIL",
        "DOE^JANE REJECT.dcm": "REJECT",
        "DOE^JANE CT.dcm": "UNUSABLE",
        "DOE^JANE DAMAGED.dcm": "UNUSABLE",
        "DOE^JANE.txt": "UNUSABLE",
    }
    assert all(item["why"] for item in verdicts.values() if item["outcome"] != "PASS")
    assert "CT Image Storage is not a radiograph" in verdicts["DOE^JANE CT.dcm"]["why"][0]


@pytest.mark.requirement("MON-02")
def test_a_finding_stands_only_in_the_verdict_of_an_image_that_passed(run_application, images, replay, recorded):
    said = {item["outcome"]: item for item in json.loads((recorded / "answers.json").read_text()).values()}
    assert said["FAIL"]["prediction"]["label"] == "chest", "the command itself is to know more than it may say"
    text = (run_application(images, replay) / "verdicts.json").read_text()
    verdicts = {item["outcome"]: item for item in json.loads(text)}
    assert verdicts["PASS"]["finding"]["label"] == "chest"
    assert 0.9 < verdicts["PASS"]["finding"]["probability"] <= 1
    assert {verdicts[outcome]["finding"] for outcome in ("FAIL", "REJECT", "UNUSABLE")} == {None}
    assert "chest" not in json.dumps(verdicts["FAIL"])
    assert text.count("probabilit") == 1


@pytest.mark.requirement("MON-03")
def test_the_output_holds_the_dicom_results_and_the_verdicts_and_nothing_else(run_application, images, replay):
    output = run_application(images, replay)
    verdicts = json.loads((output / "verdicts.json").read_text())
    written = [name for item in verdicts for name in item["written"]]
    assert sorted(path.name for path in output.iterdir()) == sorted([*written, "verdicts.json"])
    roles = {item["outcome"]: [name.split("-")[0] for name in item["written"]] for item in verdicts}
    assert roles == {
        "PASS": ["sr", "overlay"], "FAIL": ["sr", "overlay"], "REJECT": ["sr", "overlay", "rejection"], "UNUSABLE": [],
    }  # fmt: skip
    for name in written:
        ds = dcmread(output / name, stop_before_pixels=True)
        assert name == f"{name.split('-')[0]}-{ds.SOPInstanceUID}.dcm"


@pytest.mark.requirement("MON-02")
@pytest.mark.parametrize(("same", "outcome", "results"), [(True, "PASS", 2), (False, "UNUSABLE", 0)])
def test_no_result_leaves_where_two_files_that_differ_claim_one_uid(
    same, outcome, results, run_application, recorded, tmp_path
):
    folder, claims = tmp_path / "twice", tmp_path / "claims"
    for made in (folder, claims):
        made.mkdir()
    (claims / "out").symlink_to(recorded / "out")
    passed = next(
        item for item in json.loads((recorded / "answers.json").read_text()).values() if item["outcome"] == "PASS"
    )
    answers = {}
    for name in ("one", "two"):
        (folder / name).write_text(name)
        digest = "the same" if same else name
        said = {**passed, "input": {**passed["input"], "file_blake3": digest}}
        answers[hashlib.sha256(name.encode()).hexdigest()] = said
    (claims / "answers.json").write_text(json.dumps(answers))
    output = run_application(folder, _program(tmp_path / "claims.py", REPLAY.format(recorded=str(claims))))
    verdicts = json.loads((output / "verdicts.json").read_text())
    assert [item["outcome"] for item in verdicts] == [outcome, outcome]
    assert [item["finding"] is None for item in verdicts] == [not same, not same]
    assert len(list(output.glob("*.dcm"))) == results


@pytest.mark.requirement("MON-04")
def test_no_file_name_reaches_the_log_or_the_command(run_application, images, recorded, tmp_path, caplog):
    keep = f"import pathlib, sys\npathlib.Path({str(tmp_path / 'call')!r}).write_text(str(sys.argv))\n"
    program = _program(tmp_path / "replay.py", keep + REPLAY.format(recorded=str(recorded)))
    with caplog.at_level(logging.DEBUG):
        run_application(images, program)
    assert "Verified 6 files: FAIL 1, PASS 1, REJECT 1, UNUSABLE 3" in caplog.text
    assert "DOE" not in caplog.text
    assert "DOE" not in (tmp_path / "call").read_text()


SAY_PASS = "import json, sys, pathlib; f = [str(p) for p in sorted(pathlib.Path(sys.argv[2]).iterdir())]\n"
ANSWER = "dict(file=f[0], outcome='{outcome}', verification=dict(verdict='{verdict}', reasons=[], notes=[]))"
CRASH = "import sys; print('Traceback ...\\nValueError: DOE^JANE', file=sys.stderr); sys.exit(1)"
BROKEN_ANSWERS = {
    "a crash is told without what it may quote": (CRASH, r"status 1 \(ValueError\)"),
    "a refusal is told in its own words": (
        "import sys; print('error: no bundle of that name', file=sys.stderr); sys.exit(2)",
        "refused: no bundle of that name",
    ),
    "a kill points to memory": ("import os; os.kill(os.getpid(), 9)", "SIGKILL.*memory"),
    "no JSON": ("print('well')", "not the JSON"),
    "JSON of another shape": ("print('[{}]')", "not the JSON"),
    "no answers": ("print('[]')", "not the JSON"),
    "an image without an answer": (
        SAY_PASS + "print(json.dumps([dict(file='else', outcome='PASS')]))",
        "answered for 1 of 1",
    ),
    "a status that disagrees": (
        SAY_PASS + f"print(json.dumps([{ANSWER.format(outcome='FAIL', verdict='FAIL')}]))",
        "disagree",
    ),
    "a pass that was not verified": (
        SAY_PASS + f"print(json.dumps([{ANSWER.format(outcome='PASS', verdict='FAIL')}]))",
        "did not pass",
    ),
    "a pass without a prediction": (
        SAY_PASS + f"print(json.dumps([{ANSWER.format(outcome='PASS', verdict='PASS')}]))",
        "not the JSON",
    ),
    "too slow": ("import time; time.sleep(60)", "stopped after 0.5 s"),
}


@pytest.mark.requirement("MON-05")
@pytest.mark.parametrize("case", BROKEN_ANSWERS)
def test_an_answer_that_cannot_be_trusted_ends_the_run_without_results(case, ours, tmp_path):
    text, reason = BROKEN_ANSWERS[case]
    image = tmp_path / "DOE^JANE.dcm"
    image.touch()
    program = _program(tmp_path / "program.py", text)
    node = ours.node_command.NodeCommand(program, timeout_s=0.5 if case == "too slow" else 60)
    with pytest.raises(ours.node_command.NodeCommandError, match=reason) as caught:
        node.verify([image], tmp_path / "output")
    assert "DOE" not in str(caught.value)
    assert not (tmp_path / "output").exists()


@pytest.mark.requirement("MON-05")
def test_a_result_that_is_not_as_announced_ends_the_run_without_results(run_application, images, recorded, tmp_path):
    damage = "\npathlib.Path(sorted(pathlib.Path(output).glob('*.sr.dcm'))[0]).write_bytes(b'half')\nsys.exit"
    program = _program(tmp_path / "p.py", REPLAY.format(recorded=str(recorded)).replace("\nsys.exit", damage))
    with pytest.raises(Exception, match=r"A result \(sr\) is not on disk as dicom-gam run wrote it"):
        run_application(images, program)
    assert not (tmp_path / "output").exists()


@pytest.mark.requirement("MON-05")
def test_a_missing_command_is_told_with_its_remedy(ours, tmp_path):
    node = ours.node_command.NodeCommand(["/nowhere/dicom-gam"])
    with pytest.raises(
        ours.node_command.NodeCommandError, match=r"no such command. Install dicom_gam where .* app.yaml"
    ):
        node.verify([APP / "app.yaml"], tmp_path)


@pytest.mark.requirement("MON-05")
def test_verdicts_of_an_earlier_run_do_not_outlive_a_failing_one(run_application, images, tmp_path):
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "verdicts.json").write_text("[]")
    with pytest.raises(Exception, match="refused: no"):
        run_application(images, _program(tmp_path / "p.py", "import sys; print('no', file=sys.stderr); sys.exit(2)"))
    assert not (tmp_path / "output" / "verdicts.json").exists()


@pytest.mark.requirement("MON-05")
def test_a_run_that_ends_without_verdicts_is_an_error(ours, run_application, images, replay, monkeypatch):
    monkeypatch.setattr(ours.radiograph_operators.RadiographVerificationOperator, "compute", lambda *_: None)
    with pytest.raises(SystemExit, match="without verdicts"):
        run_application(images, replay)


@pytest.mark.requirement("MON-05")
def test_an_empty_input_folder_is_an_error_and_not_a_success(run_application, replay, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="Is the right folder mounted"):
        run_application(tmp_path / "empty", replay)


@pytest.mark.requirement("MON-01")
def test_headers_that_the_informatics_gateway_stores_beside_images_are_not_taken_for_images(
    run_application, replay, tmp_path
):
    folder = tmp_path / "dcm"
    folder.mkdir()
    shutil.copy(sample("CT_small.dcm"), folder / "1.2.dcm")
    (folder / "1.2.dcm.json").write_text("{}")
    verdicts = json.loads((run_application(folder, replay) / "verdicts.json").read_text())
    assert [Path(item["file"]).name for item in verdicts] == ["1.2.dcm"]


@pytest.mark.requirement("MON-06")
def test_selected_series_of_an_application_are_verified_each_file_once(ours):
    def series(*names: str) -> Any:
        instances = [
            SimpleNamespace(get_native_sop_instance=lambda name=name: SimpleNamespace(filename=name)) for name in names
        ]
        return SimpleNamespace(series=SimpleNamespace(get_sop_instances=lambda: instances))

    studies = [SimpleNamespace(selected_series=[series("/a", "/b"), series("/b")]), SimpleNamespace(selected_series=[])]
    operator = ours.radiograph_operators.SelectedSeriesFilesOperator(sys.modules["monai.deploy.core"].Fragment())
    emitted: dict[str, Any] = {}
    operator.compute(
        SimpleNamespace(receive={"study_selected_series_list": studies}.get),
        SimpleNamespace(emit=lambda data, name: emitted.update({name: data})),
        None,
    )
    assert emitted == {"files": [Path("/a"), Path("/b")]}


@pytest.mark.requirement("MON-07")
def test_the_stand_in_behaves_as_the_operators_expect_of_the_sdk(tmp_path):
    made = modules()
    assert observe(made["monai.deploy.core"], made["monai.deploy.conditions"], tmp_path) == EXPECTED


@pytest.mark.requirement("MON-08")
@pytest.mark.parametrize("path", sorted(APP.glob("*.py")), ids=lambda path: path.name)
def test_the_plugin_imports_the_sdk_and_the_standard_library_only(path):
    tree = list(ast.walk(ast.parse(path.read_text())))
    names = [item.name for node in tree if isinstance(node, ast.Import) for item in node.names]
    names += [node.module for node in tree if isinstance(node, ast.ImportFrom)]
    imported = {name.split(".")[0] for name in names}
    assert imported <= {*sys.stdlib_module_names, "monai", *OURS}
