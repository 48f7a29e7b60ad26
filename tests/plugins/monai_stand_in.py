"""Stands in for what the MONAI Deploy operators use of the App SDK; `monai_contract` says that it behaves alike.

The SDK itself is no dependency of the suite: it brings half a gigabyte of CUDA packages. `make monai` has it.
"""

from __future__ import annotations

import argparse
import enum
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import yaml


class ConditionType(enum.Enum):
    NONE = 0
    MESSAGE_AVAILABLE = 1


class _Port:
    def condition(self, kind: ConditionType, **kwargs: Any) -> _Port:
        assert isinstance(kind, ConditionType)
        return self


class OperatorSpec:
    def __init__(self) -> None:
        self.inputs: dict[str, _Port] = {}
        self.outputs: dict[str, _Port] = {}

    def input(self, name: str) -> _Port:
        return self.inputs.setdefault(name, _Port())

    def output(self, name: str) -> _Port:
        return self.outputs.setdefault(name, _Port())


class CountCondition:
    def __init__(self, fragment: Fragment, count: int) -> None:
        self.count = count


class Operator:
    def __init__(self, fragment: Fragment, *args: Any, name: str = "", **kwargs: Any) -> None:
        assert isinstance(fragment, Fragment)
        assert not kwargs, f"arguments that the operator didn't take for itself: {sorted(kwargs)}"
        self.name = name
        self.spec = OperatorSpec()
        self.setup(self.spec)

    def setup(self, spec: OperatorSpec) -> None: ...

    def start(self) -> None: ...


class _InputContext:
    def __init__(self, operator: Operator, waiting: dict[str, Any]) -> None:
        self._operator, self._waiting = operator, waiting

    def receive(self, name: str) -> Any:
        if name not in self._operator.spec.inputs:
            raise RuntimeError(f"no input {name}")
        return self._waiting.pop(name)


class _OutputContext:
    def __init__(self, operator: Operator, sent: dict[str, Any]) -> None:
        self._operator, self._sent = operator, sent

    def emit(self, data: Any, name: str) -> None:
        if name in self._operator.spec.outputs:  # the SDK logs the other case and goes on
            self._sent[name] = data


class Fragment:
    """Operators and flows; runs each operator once, as soon as all of its inputs are there."""

    def __init__(self) -> None:
        self._operators: list[Operator] = []
        self._flows: list[tuple[Operator, Operator, str, str]] = []
        self._config: dict[str, Any] = {}

    def add_flow(self, upstream: Operator, downstream: Operator, port_pairs: Iterable[tuple[str, str]]) -> None:
        for out, into in port_pairs:
            if out not in upstream.spec.outputs or into not in downstream.spec.inputs:
                raise RuntimeError(f"no such ports: {out}, {into}")
            self._flows.append((upstream, downstream, out, into))
        self._operators += [item for item in (upstream, downstream) if item not in self._operators]

    def config(self, path: str) -> None:
        self._config = yaml.safe_load(Path(path).read_text()) or {}

    def kwargs(self, name: str) -> dict[str, Any]:
        return self._config.get(name, {})


class Application(Fragment):
    def __init__(self) -> None:
        super().__init__()
        self.argv = list(sys.argv)

    @staticmethod
    def init_app_context(argv: list[str]) -> SimpleNamespace:
        parser = argparse.ArgumentParser()
        parser.add_argument("--input", "-i", default=os.environ.get("HOLOSCAN_INPUT_PATH", "input"))
        parser.add_argument("--output", "-o", default=os.environ.get("HOLOSCAN_OUTPUT_PATH", "output"))
        told = parser.parse_args(argv[1:])
        return SimpleNamespace(input_path=told.input, output_path=told.output)

    def run(self) -> None:
        self.compose()
        waiting: dict[Operator, dict[str, Any]] = {operator: {} for operator in self._operators}
        left = list(self._operators)
        for operator in self._operators:
            operator.start()
        while ready := [item for item in left if waiting[item].keys() == item.spec.inputs.keys()]:
            for operator in ready:
                sent: dict[str, Any] = {}
                operator.compute(_InputContext(operator, waiting[operator]), _OutputContext(operator, sent), None)
                for upstream, downstream, out, into in self._flows:
                    if upstream is operator and out in sent:
                        waiting[downstream][into] = sent[out]
                left.remove(operator)


def modules() -> dict[str, ModuleType]:
    """The modules by name, for sys.modules."""
    names = ("monai", "monai.deploy", "monai.deploy.core", "monai.deploy.conditions")
    made = {name: ModuleType(name) for name in names}
    for kind in (Application, ConditionType, Fragment, Operator, OperatorSpec):
        setattr(made["monai.deploy.core"], kind.__name__, kind)
    made["monai.deploy.conditions"].CountCondition = CountCondition
    return made
