"""The part of a merge that plain classes can hold, an encoder and heads, and the tensors that they cannot.

A kind of serving decides:

    none        the merged model, or of a model per task that of the chosen task
    heads       the merged model, with the heads that were trained with it
    masks       the encoder of the chosen task, with its mask applied
    factors     the encoder of the chosen task, rebuilt
    adapters    the merged model; the corrections of its features go into a file of their own
    routed      `selection` refuses it: the experts stand between the matrices of the encoder
    ensemble    `selection` refuses it: a folder holds one encoder
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from pipeline.export.selection import Selection
from pipeline.merges import storage
from pipeline.merges.solution import Extras, Solution
from pipeline.models.weights import Weights
from pipeline.runtime import store

ONE = "One encoder serves all tasks: pick a task by its head."
PER_TASK = "The method keeps a model per task. This is the one for {task}."
NOTES = {
    "heads": f"{ONE} The heads were trained together with it and replace those of the suite.",
    "masks": f"{PER_TASK} Its mask is applied, so that it is a plain encoder.",
    "factors": f"{PER_TASK} It is rebuilt from what all tasks share, so that it is a plain encoder.",
    "adapters": "**Plain loading gives the merged encoder alone.** The accuracies below need the correction of "
    "its features in `extras.safetensors` too: `z - relu(z @ down.T) @ up.T` for the features `z` that the code below "
    "multiplies by a head, with the tensors `<task>/down` and `<task>/up`, before that.",
}
"""What the card says of a kind."""


@dataclass(frozen=True)
class Portable:
    """A plain model."""

    encoder: Weights
    """In the suite's layout, float32."""
    heads: Weights
    """{task: [classes, D]}, float32."""
    extras: Weights
    """Tensors that plain classes do not load; empty for most."""
    note: str


def extract(selection: Selection) -> Portable:
    """Merge the selected model and return what plain classes can hold of it."""
    suite, artefact, index = selection.suite, selection.merge, selection.index
    _, coefficients = storage.load(artefact)
    tensors = store.TensorFile(artefact / f"extras-{index}.safetensors") if selection.kind else {}
    matrices = None if coefficients is None else coefficients[index]
    several = matrices is not None and len(matrices) > 1
    solution = Solution(
        None if matrices is None else matrices[suite.suite.task_names.index(selection.tasks[0]) if several else 0],
        store.TensorFile(artefact / f"delta-{index}.safetensors") if matrices is None else None,
        extras=Extras(selection.kind, tensors) if selection.kind else None,
    )
    served = next(model for model in storage.serve(suite, solution) if selection.tasks[0] in model.tasks)
    needed = [f"{task}/{part}" for task in selection.tasks for part in ("down", "up")]
    return Portable(
        encoder=_floats(served.weights, suite.base()),
        heads=_floats(served.heads, selection.tasks),
        extras=_floats(tensors, needed if selection.kind == "adapters" else ()),
        note=NOTES.get(selection.kind or "", PER_TASK if several else ONE).format(task=selection.task),
    )


def _floats(tensors: Mapping[str, Tensor], names: Mapping[str, Tensor] | tuple[str, ...] | list[str]) -> Weights:
    return {name: tensors[name].float() for name in names}
