"""The base class of all parameters, and the parameters that several modules share."""

from typing import TYPE_CHECKING, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    import torch

Precision = Literal["float32", "bfloat16"]
"""Names of torch's types."""


def autocast(device: "torch.device", precision: "torch.dtype") -> "torch.autocast":
    """Return a context in which matrix products are in bfloat16 if that is the `precision`; else it changes nothing."""
    import torch

    return torch.autocast(device.type, torch.bfloat16, enabled=precision == torch.bfloat16)


def _check_distinct(values: list[Any]) -> list[Any]:
    if any(value in values[:place] for place, value in enumerate(values)):
        raise ValueError("values must differ")
    return values


DISTINCT = AfterValidator(_check_distinct)
"""Of a list: no value twice."""


class Parameters(BaseModel):
    """A set of parameters: typed fields, immutable.

    `strict`: the text "0.1" is not accepted as a number, nor 1.0 as a number of steps.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Schedule(Parameters):
    """How long and how fast to calibrate on a suite: what depends on the size of its models."""

    lr: float = Field(gt=0)
    """Adam's learning rate for the coefficients."""
    steps: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    """Images per task and step."""


def to_plain(value: Any) -> Any:
    """Return a parameter as run records have it: a set of parameters as a mapping, any other value as it is."""
    return value.model_dump() if isinstance(value, BaseModel) else value
