"""What the MONAI Deploy operators rely on in the App SDK, asked alike of the real one and of the stand-in."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

CONFIG = "application: {title: contract}\nsection: {command: [a, b], empty: '', timeout_s: 30}\n"
EXPECTED = [
    "setup is called by the constructor",
    "argv is sys.argv",
    "input and output are those of the command line",
    "a section is {'command': ['a', 'b'], 'empty': '', 'timeout_s': 30}",
    "an unknown section is {}",
    "start is called before anything computes",
    "source computes",
    "sink receives [PosixPath('/a'), {'outcome': 'PASS', 'finding': None}]",
    "sink emits where nobody receives",
    "run returns",
    "emitting to an unknown output is no error",
    "an unknown flow is refused",
    "an error in compute comes out of run: ValueError: the reason",
]


def observe(core: Any, conditions: Any, folder: Path) -> list[str]:
    """What the modules `monai.deploy.core` and `monai.deploy.conditions` do, as sentences; `folder` exists."""
    said: list[str] = []
    config = folder / "contract.yaml"
    config.write_text(CONFIG)
    known, sys.argv = sys.argv, ["contract", "-i", str(folder), "-o", str(folder)]
    try:
        _run(core, conditions, config, said, "result")
        said.append("run returns")
        _run(core, conditions, config, [], "unknown output")
        said.append("emitting to an unknown output is no error")
        try:
            _run(core, conditions, config, [], "unknown flow")
        except Exception:
            said.append("an unknown flow is refused")
        try:
            _run(core, conditions, config, [], "error")
        except ValueError as error:
            said.append(f"an error in compute comes out of run: ValueError: {error}")
    finally:
        sys.argv = known
    return said


def _run(core: Any, conditions: Any, config: Path, said: list[str], behaviour: str) -> None:
    class Source(core.Operator):
        def __init__(self, fragment: Any, *args: Any, told: str, **kwargs: Any) -> None:
            self.told = told
            super().__init__(fragment, *args, **kwargs)

        def setup(self, spec: Any) -> None:
            said.append(f"setup is called {self.told}")
            spec.output("out")

        def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
            said.append("source computes")
            op_output.emit([Path("/a"), {"outcome": "PASS", "finding": None}], "out")

    class Sink(core.Operator):
        def setup(self, spec: Any) -> None:
            spec.input("into")
            spec.output("result").condition(core.ConditionType.NONE)

        def start(self) -> None:
            said.append("start is called before anything computes")

        def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
            said.append(f"sink receives {op_input.receive('into')}")
            if behaviour == "error":
                raise ValueError("the reason")
            op_output.emit([], behaviour)
            said.append("sink emits where nobody receives")

    class Contract(core.Application):
        def compose(self) -> None:
            source = Source(self, conditions.CountCondition(self, 1), told="by the constructor", name="source")
            said.append("argv is sys.argv" if self.argv == sys.argv else f"argv is {self.argv}")
            context = core.Application.init_app_context(self.argv)
            if (str(context.input_path), str(context.output_path)) == (str(config.parent), str(config.parent)):
                said.append("input and output are those of the command line")
            said.append(f"a section is {dict(sorted(self.kwargs('section').items()))}")
            said.append(f"an unknown section is {self.kwargs('unknown')}")
            ports = ("nowhere", "nobody") if behaviour == "unknown flow" else ("out", "into")
            self.add_flow(source, Sink(self, name="sink"), {ports})

    application = Contract()
    application.config(str(config))
    application.run()
