"""The node's pipeline as operators of the MONAI Deploy App SDK: files in, DICOM results and verdicts out."""

from __future__ import annotations

import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

from monai.deploy.core import ConditionType, Fragment, Operator, OperatorSpec
from node_command import NodeCommand

LOG = logging.getLogger(__name__)
VERDICTS_FILE = "verdicts.json"


class DicomFilesOperator(Operator):
    """Name every file of a folder and its sub-folders, whatever it holds: a damaged image gets a verdict too.

    Named output:
        files: list of pathlib.Path.
    """

    def __init__(self, fragment: Fragment, *args: Any, input_folder: Path, **kwargs: Any) -> None:
        self._input_folder = input_folder
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        """Declare the ports."""
        spec.output("files")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:  # noqa: ARG002 (the SDK's signature)
        """List the folder; an application without input was started wrongly, and says so."""
        files = [path for path in sorted(self._input_folder.rglob("*")) if path.is_file() and not _is_sidecar(path)]
        if not files:
            raise ValueError(f"No file in the input folder {self._input_folder}. Is the right folder mounted?")
        op_output.emit(files, "files")


class SelectedSeriesFilesOperator(Operator):
    """Name the files of the series that the SDK's DICOMSeriesSelectorOperator selected.

    For applications that load and select already. What the SDK's loader can't read, it leaves out with a warning:
    such a file gets no verdict.

    Named input:
        study_selected_series_list: list of StudySelectedSeries.
    Named output:
        files: list of pathlib.Path.
    """

    def setup(self, spec: OperatorSpec) -> None:
        """Declare the ports."""
        spec.input("study_selected_series_list")
        spec.output("files")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:  # noqa: ARG002
        """Find out from which files the instances were read; each is named once."""
        studies = op_input.receive("study_selected_series_list")
        series = [selected.series for study in studies for selected in study.selected_series]
        instances = [item.get_native_sop_instance() for one in series for item in one.get_sop_instances()]
        op_output.emit(list(dict.fromkeys(Path(ds.filename) for ds in instances)), "files")


class RadiographVerificationOperator(Operator):
    """Have the node classify and verify files; put its reports and overlays (DICOM) into the output folder.

    A finding stands in a verdict only where the image passed. A node that gives no trustworthy answer raises
    NodeCommandError, which ends the application; no result is in the output folder then.

    Named input:
        files: list of pathlib.Path.
    Named output:
        verdicts: list of dict, a file each, in the order of the files. Receiver optional.
    """

    def __init__(
        self, fragment: Fragment, *args: Any, output_folder: Path, node: NodeCommand | None = None, **kwargs: Any
    ) -> None:
        self._output_folder = output_folder
        self._node = node or NodeCommand()
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        """Declare the ports."""
        spec.input("files")
        spec.output("verdicts").condition(ConditionType.NONE)

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:  # noqa: ARG002
        """Ask the node; the log gets counts only."""
        verdicts = self._node.verify(op_input.receive("files"), self._output_folder)
        counts = Counter(verdict["outcome"] for verdict in verdicts)
        said = ", ".join(f"{outcome} {count}" for outcome, count in sorted(counts.items()))
        LOG.info("Verified %d files: %s", len(verdicts), said or "none")
        op_output.emit(verdicts, "verdicts")


class VerdictsWriterOperator(Operator):
    """Write the verdicts to `verdicts.json`, last of all: where it stands, the results are complete.

    Named input:
        verdicts: list of dict.
    """

    def __init__(self, fragment: Fragment, *args: Any, output_folder: Path, **kwargs: Any) -> None:
        self._file = output_folder / VERDICTS_FILE
        self.written = False
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        """Declare the ports."""
        spec.input("verdicts")

    def start(self) -> None:
        """Take away the verdicts of an earlier run, before anything computes."""
        self._file.unlink(missing_ok=True)

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:  # noqa: ARG002
        """Write the file, whole or not at all."""
        text = json.dumps(op_input.receive("verdicts"), indent=2)
        self._file.parent.mkdir(parents=True, exist_ok=True)
        part = self._file.with_name(f".{VERDICTS_FILE}.part")
        part.write_text(text + "\n", encoding="utf-8")
        part.replace(self._file)
        self.written = True


def _is_sidecar(path: Path) -> bool:
    """Tell the headers as JSON that the Informatics Gateway stores as IMAGE.dcm.json beside each IMAGE.dcm."""
    return path.name.endswith(".dcm.json") and path.with_suffix("").is_file()
