"""The application: every file of the input folder is verified, the results stand in the output folder."""

from __future__ import annotations

import os
from pathlib import Path

from monai.deploy.conditions import CountCondition
from monai.deploy.core import Application
from node_command import NodeCommand
from radiograph_operators import DicomFilesOperator, RadiographVerificationOperator, VerdictsWriterOperator


class RadiographVerificationApp(Application):
    """Input folder -> files -> verdicts and DICOM results -> verdicts.json."""

    def compose(self) -> None:
        """Make the operators and connect them."""
        context = Application.init_app_context(self.argv)
        output_folder = Path(context.output_path)
        node = NodeCommand(**self.kwargs("verification"))
        files = DicomFilesOperator(
            self, CountCondition(self, 1), input_folder=Path(context.input_path), name="dicom_files"
        )
        verification = RadiographVerificationOperator(self, output_folder=output_folder, node=node, name="verification")
        self.writer = VerdictsWriterOperator(self, output_folder=output_folder, name="verdicts_writer")
        self.add_flow(files, verification, {("files", "files")})
        self.add_flow(verification, self.writer, {("verdicts", "verdicts")})


def main() -> None:
    """Run on the folders of the command line or of the package's environment, as `app.yaml` says."""
    application = RadiographVerificationApp()
    # A package has its copy elsewhere and says where.
    application.config(os.environ.get("HOLOSCAN_CONFIG_PATH") or str(Path(__file__).with_name("app.yaml")))
    application.run()
    if not application.writer.written:  # the SDK's scheduler ends quietly where an operator waits for ever
        raise SystemExit("The run ended without verdicts; the log says which operator stopped.")


if __name__ == "__main__":
    main()
