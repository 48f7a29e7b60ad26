"""`bundle.toml`: what a model bundle says about itself."""

from __future__ import annotations

import tomllib
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from dicom_gam.core.attention import METHODS
from dicom_gam.core.measure import CHECKS
from dicom_gam.core.preprocess import Preprocessing
from dicom_gam.errors import BundleError
from dicom_gam.records import CheckName, CodedConcept

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=64)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Concept(_Table):
    """A coded concept as it stands in bundle.toml."""

    value: Annotated[str, StringConstraints(min_length=1, max_length=16)]
    scheme: Annotated[str, StringConstraints(min_length=1, max_length=16)]
    meaning: Annotated[str, StringConstraints(min_length=1, max_length=64)]

    def record(self) -> CodedConcept:
        """The record that travels the road."""
        return CodedConcept(self.value, self.scheme, self.meaning)


class ClassEntry(_Table):
    """One real class: its name, its code, and the BodyPartExamined values that agree with it."""

    name: Name
    concept: Concept
    body_parts: tuple[str, ...] = ()


class PreprocessingTable(_Table):
    """How a radiograph becomes the network's input; see core.preprocess."""

    input_size: int = Field(ge=16, le=2048)
    content_size: int = Field(ge=16, le=2048)
    percentiles: tuple[float, float] = (1.0, 99.0)
    mean: float = 0.5
    std: float = Field(0.25, gt=0)
    channels: Literal[1, 3] = 1

    def record(self) -> Preprocessing:
        """The same as core's record."""
        return Preprocessing(**self.model_dump())


class Manifest(_Table):
    """The whole of bundle.toml. The garbage class is the last class of the network, after `classes` in order."""

    format: Literal[2] = 2
    name: Name
    version: Annotated[str, StringConstraints(pattern=r"^\d+\.\d+\.\d+$")]
    manufacturer: str
    intended_use: str
    architecture: str
    options: dict[str, Any] = {}
    classes: tuple[ClassEntry, ...] = Field(min_length=1)
    garbage_class: Name = "garbage"
    preprocessing: PreprocessingTable
    attention_layer: str
    attention_method: str = "hirescam"
    early_layers: tuple[str, ...] = Field(min_length=1)
    checks: tuple[CheckName, ...] = Field(CHECKS, min_length=1)  # those that decide; the others are advisory
    alpha: float = Field(0.05, gt=0, lt=1)

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        names = [entry.name for entry in self.classes]
        if len(set(names)) != len(names) or self.garbage_class in names:
            raise ValueError("class names repeat: give every class, and the garbage class, its own name")
        if self.attention_method not in METHODS:
            raise ValueError(f"attention_method must be one of {', '.join(METHODS)}")
        return self

    @property
    def class_names(self) -> tuple[str, ...]:
        """Every class in the network's order, the garbage class last."""
        return (*(entry.name for entry in self.classes), self.garbage_class)

    @property
    def garbage_index(self) -> int:
        """The garbage class's index."""
        return len(self.classes)


def parse_manifest(text: str, origin: str) -> Manifest:
    """Parse bundle.toml. Raises BundleError that names the file, the key and the reason."""
    try:
        return Manifest.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise BundleError(f"{origin}: is not valid TOML: {error}") from error
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc'])) or 'whole file'}: {e['msg']}" for e in error.errors(include_url=False)]
        raise BundleError(f"{origin}: " + "; ".join(lines)) from error
