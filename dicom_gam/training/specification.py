"""What `dicom-gam train` is told: the bundle to be, how to train it, and what its model card must say."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from dicom_gam.bundle.manifest import Manifest
from dicom_gam.errors import TrainingError
from dicom_gam.training.augmentation import SYNTHETIC_FAMILIES

Precision = Literal["auto", "float32", "bf16"]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(_Table):
    """Where images came from, for the model card."""

    name: str
    licence: str
    attribution: str
    remark: str = ""


class Schedule(_Table):
    """How the network is trained; every default is chosen for some thousand images and two CPU cores."""

    seed: int = Field(0, description="Fixes every random choice: the same seed and images give the same network.")
    steps: int = Field(1200, ge=1, description="How many batches the network is trained on.")
    batch_size: int = Field(64, ge=4, description="Images in a batch, generated negatives included.")
    learning_rate: float = Field(
        2e-3, gt=0, description="The highest step size; about a tenth of the default suits fine-tuning."
    )
    weight_decay: float = Field(0.02, ge=0, description="How strongly AdamW pulls the weights towards zero.")
    precision: Precision = Field(
        "auto", description="bf16 is quicker on a recent GPU; auto means bf16 where a GPU supports it, else float32."
    )
    synthetic_share: float = Field(
        0.3, ge=0, lt=1, description="The share of each batch that is negatives generated from real images."
    )
    synthetic_families: tuple[str, ...] = Field(
        SYNTHETIC_FAMILIES,
        description="The kinds of negatives to generate, drawn equally often; leave one out to test on it unseen.",
    )
    outlier_weight: float = Field(
        0.0,
        ge=0,
        description="Outlier exposure (arXiv 1812.04606, there 0.5): how strongly negatives are trained to look like "
        "every real class equally, besides being garbage; 0 is off. Without effect on a single real class.",
    )
    cue_weight: float = Field(
        0.0,
        ge=0,
        description="How strongly attention is pulled towards the regions in the CSV's column `cue`: the weight of "
        "1 - cosine, a mean over the images of a batch that have one; 0 is off.",
    )
    validate_every: int = Field(50, ge=1, description="Steps from one look at the validation images to the next.")
    prototypes: int = Field(4, ge=1, description="Reference maps kept for each class.")
    fractions: dict[str, float] = Field(
        {"train": 0.40, "validation": 0.08, "scaling": 0.10, "calibration": 0.32, "test": 0.10},
        description="The share of the patients of each real class that each role gets; together 1.",
    )
    garbage_fractions: dict[str, float] = Field(
        {"train": 0.7, "validation": 0.1, "test": 0.2},
        description="The share of the groups of each family of negatives that each role gets; together 1.",
    )

    @field_validator("synthetic_families")
    @classmethod
    def _known_families(cls, families: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [name for name in families if name not in SYNTHETIC_FAMILIES]
        if unknown:
            raise ValueError(f"{', '.join(unknown)}: no such family; there are {', '.join(SYNTHETIC_FAMILIES)}")
        if not families:
            raise ValueError("no family is left; for no generated negatives set synthetic_share = 0 instead")
        if len(set(families)) != len(families):
            raise ValueError("a family stands there twice; name each once")
        return families


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
