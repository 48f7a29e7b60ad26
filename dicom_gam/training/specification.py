"""What `dicom-gam train` is told: the bundle to be, how to train it, and what its model card must say."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dicom_gam.bundle.manifest import Manifest
from dicom_gam.errors import TrainingError


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(_Table):
    """Where images came from, for the model card."""

    name: str
    licence: str
    attribution: str
    remark: str = ""


class Schedule(_Table):
    """How the network is trained; every number is chosen for some thousand images and two CPU cores."""

    seed: int = 0
    steps: int = Field(1200, ge=1)
    batch_size: int = Field(64, ge=4)
    learning_rate: float = Field(2e-3, gt=0)
    weight_decay: float = Field(0.02, ge=0)
    synthetic_share: float = Field(0.3, ge=0, lt=1)  # of each batch, made by training.augmentation
    validate_every: int = Field(50, ge=1)
    prototypes: int = Field(4, ge=1)
    fractions: dict[str, float] = {"train": 0.40, "validation": 0.08, "calibration": 0.42, "test": 0.10}
    garbage_fractions: dict[str, float] = {"train": 0.7, "validation": 0.1, "test": 0.2}


class CardText(_Table):
    """The parts of the model card that no computer can know."""

    summary: str
    limits: tuple[str, ...] = ()
    sources: tuple[Source, ...] = ()


class Specification(_Table):
    """The whole of a training specification."""

    bundle: Manifest
    training: Schedule = Schedule()
    card: CardText


def read_specification(path: Path) -> Specification:
    """Read a TOML specification. Raises TrainingError that names the key and the reason."""
    try:
        table: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        return Specification.model_validate(table)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise TrainingError(f"{path}: can't be read as TOML: {error}") from error
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_url=False)]
        raise TrainingError(f"{path}: " + "; ".join(lines)) from error
