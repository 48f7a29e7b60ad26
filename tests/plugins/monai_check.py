"""The MONAI Deploy plugin on the real App SDK: `make monai`, which runs this in an environment that has the SDK.

Nothing of the project is imported but what the SDK's environment can import too.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import monai.deploy.conditions
import monai.deploy.core
import yaml
from holoscan_cli.packager.config_reader import ApplicationConfiguration
from holoscan_cli.packager.parameters import PackageBuildParameters

from tests.end_to_end.peers import sample
from tests.plugins.monai_contract import EXPECTED, observe

APP = Path(__file__).parents[2] / "plugins" / "monai_deploy" / "app"
IMAGES = {"RG1_UNCR.dcm": "PASS", "RG3_UNCR.dcm": "REJECT", "CT_small.dcm": "UNUSABLE"}
RULES = {"selections": [{"name": "radiographs", "conditions": {"Modality": "^(CR|DX|MG|IO|PX|RG)$"}}]}


def main(dicom_gam: str) -> int:
    """Every check in turn; the first that fails ends it with its reason."""
    for package in ("monai-deploy-app-sdk", "holoscan-cu13", "holoscan-cli"):
        print(f"{package} {version(package)}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _contract(folder)
        _packager()
        images = folder / "input"
        images.mkdir()
        for image in IMAGES:
            shutil.copy(sample(image), images)
        (images / "note.txt").write_text("no image")
        _application(images, folder, [str(Path(dicom_gam).absolute())])
        _failure(images, folder)
        _selected_series(images)
    return 0


def _say(what: str, ok: bool, details: Any = "") -> None:
    print(f"{'ok ' if ok else 'BAD'}  {what}", flush=True)
    if not ok:
        raise SystemExit(str(details))


def _contract(folder: Path) -> None:
    said = observe(monai.deploy.core, monai.deploy.conditions, folder)
    _say("the SDK behaves as the suite's stand-in does", said == EXPECTED, "\n".join(said))


def _packager() -> None:
    """What `monai-deploy package` reads before it calls Docker."""
    parameters = PackageBuildParameters()
    parameters.application = APP
    configuration = ApplicationConfiguration()
    configuration.read(APP / "app.yaml")
    manifest = configuration.populate_app_manifest(parameters).data
    resources = configuration.populate_package_manifest(parameters).data["resources"]
    read = (parameters.application_type.name, manifest["command"], manifest["input"]["formats"], manifest["version"])
    _say(
        f"the packager reads the application: {read}, {resources}",
        read[0] == "PythonModule" and read[2] == ["file"] and parameters.requirements_file_path is not None,
        manifest,
    )


def _run(images: Path, folder: Path, command: Sequence[str]) -> tuple[int, str, Path]:
    """Run the application as a package's entry point does, with its environment."""
    settings = yaml.safe_load((APP / "app.yaml").read_text())
    settings["verification"]["command"] = list(command)
    config = folder / "app.yaml"
    config.write_text(yaml.safe_dump(settings))
    output = folder / "output"
    environment = {
        **os.environ,
        "HOLOSCAN_INPUT_PATH": str(images),
        "HOLOSCAN_OUTPUT_PATH": str(output),
        "HOLOSCAN_CONFIG_PATH": str(config),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    call = [sys.executable, str(APP)]
    done = subprocess.run(call, env=environment, cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr, output


def _application(images: Path, folder: Path, command: Sequence[str]) -> None:
    status, said, output = _run(images, folder, command)
    _say("the application runs", status == 0 and (output / "verdicts.json").exists(), said)
    verdicts = json.loads((output / "verdicts.json").read_text())
    for item in verdicts:
        print(f"     {Path(item['file']).name}: {item['outcome']}, finding {item['finding']}, {item['written']}")
    outcomes = {Path(item["file"]).name: item["outcome"] for item in verdicts}
    _say("a verdict for every file", outcomes == {**IMAGES, "note.txt": "UNUSABLE"}, outcomes)
    _say("a finding for the PASS alone", all((item["outcome"] == "PASS") == bool(item["finding"]) for item in verdicts))
    written = {name for item in verdicts for name in item["written"]}
    there = {path.name for path in output.iterdir()}
    _say("the output is DICOM results and verdicts.json", there == {*written, "verdicts.json"}, there)
    _say("the log has counts and no file name", "PASS 1, REJECT 1, UNUSABLE 2" in said and "RG1" not in said, said)


def _failure(images: Path, folder: Path) -> None:
    status, said, output = _run(images, folder, ["/bin/false"])
    ok = status != 0 and "broke off with status 1" in said and not (output / "verdicts.json").exists()
    _say("a node that fails makes the application fail, without verdicts", ok, said)


def _selected_series(images: Path) -> None:
    """The SDK's loader and selector before our operator, where they can be imported."""
    try:
        from monai.deploy.operators import DICOMDataLoaderOperator, DICOMSeriesSelectorOperator  # noqa: PLC0415
    except ImportError as error:
        reason = str(error).splitlines()[0]
        print(f'--   not tried: series of the SDK\'s selector ({reason}). make monai MONAI_MORE="highdicom monai"')
        return
    sys.path.insert(0, str(APP))
    from radiograph_operators import SelectedSeriesFilesOperator  # noqa: PLC0415

    named: list[Path] = []

    class Names(monai.deploy.core.Operator):
        def setup(self, spec: Any) -> None:
            spec.input("files")

        def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
            named.extend(op_input.receive("files"))

    class Selecting(monai.deploy.core.Application):
        def compose(self) -> None:
            once = monai.deploy.conditions.CountCondition(self, 1)
            loader = DICOMDataLoaderOperator(self, once, input_folder=images, name="loader")
            rules = json.dumps(RULES)
            selector = DICOMSeriesSelectorOperator(self, rules=rules, all_matched=True, name="selector")
            files = SelectedSeriesFilesOperator(self, name="files")
            self.add_flow(loader, selector, {("dicom_study_list", "dicom_study_list")})
            self.add_flow(selector, files, {("study_selected_series_list", "study_selected_series_list")})
            self.add_flow(files, Names(self, name="names"), {("files", "files")})

    Selecting().run()
    radiographs = {images / "RG1_UNCR.dcm", images / "RG3_UNCR.dcm"}
    _say("the files of series that the SDK's selector selected", set(named) == radiographs, named)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
