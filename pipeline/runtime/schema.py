"""What every set of parameters has in common, and the parameters that several modules share."""

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field

Precision = Literal["float32", "bfloat16"]
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def rounded(device: torch.device, precision: torch.dtype) -> torch.autocast:
    """A context in which matrix products are in bfloat16 if `precision` is, and as they are otherwise."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == torch.bfloat16)


class Parameters(BaseModel):
    """A set of parameters; subclasses list typed fields. `strict`: "0.1" is not a number, 1.0 is no step count."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Schedule(Parameters):
    """How long and how fast a suite is calibrated: what depends on the size of its models."""

    lr: float = Field(gt=0)
    """Adam's learning rate for the coefficients."""
    steps: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    """Images per task and step."""
