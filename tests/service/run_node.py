"""A node with the fake processor as a process of its own: `python run_node.py SETTINGS.json SECONDS_PER_BATCH`.

Prints its port, runs until SIGTERM (or until it is killed).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from dicom_gam.config import settings_from
from dicom_gam.service.node import Node, run_until_signal
from tests.service.fakes import slowly


class TellingNode(Node):
    def start(self) -> None:
        super().start()
        print(self.port, flush=True)


if __name__ == "__main__":
    table = json.loads(Path(sys.argv[1]).read_text())
    run_until_signal(TellingNode(settings_from(table), slowly(float(sys.argv[2]))))
