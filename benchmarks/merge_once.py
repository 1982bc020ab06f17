"""One data-free merge of model folders: `python -m benchmarks.merge_once ties MODELS MERGED.safetensors`.

MODELS holds base/model.safetensors and, per task, 0/model.safetensors, 1/model.safetensors, ... with the same tensors,
those of a CLIPVisionModel.
SAMERGING_WORKERS is the number of threads.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline import methods
from pipeline.merges.solution import Solution
from pipeline.models.task_vectors import TaskVectors, add_delta, merge_experts
from pipeline.models.weights import Weights
from pipeline.runtime import store
from pipeline.runtime.parallel import count_workers
from pipeline.runtime.threads import map_tensors
from pipeline.steps.svc import calibrate_solution
from pipeline.suites._clip_weights import BLOCK

KEEP = 0.25
"""Share of entries that TIES keeps: a quarter of every tensor's size is a whole number, so that no rounding differs."""
STEPS = 30
"""Steps of WUDI-Merging: a tenth of its default, as each takes the same time."""
ALPHA = 0.125
"""The least s of singular value calibration: of eight experts the authors' 1/T."""


@dataclass(frozen=True)
class Variant:
    """A method, and its parameters where they are not its defaults."""

    method: str
    params: Mapping[str, Any] = field(default_factory=dict)
    by_tensor: bool = False
    """Merge each tensor as if it were the whole model."""
    svc: bool = False
    """Calibrate the singular values of the merge, with ALPHA."""


VARIANTS = {
    "average": Variant("average"),
    "task_arithmetic": Variant("task_arithmetic"),
    "ties": Variant("ties", {"keep": KEEP}),
    "ties_by_tensor": Variant("ties", {"keep": KEEP}, by_tensor=True),
    "dare": Variant("dare"),
    "dare_untrimmed_ties": Variant("dare_ties", {"keep": 1.0}),
    "iso_c": Variant("iso_c"),
    "iso_cts": Variant("iso_cts"),
    "tsv_m": Variant("tsv_m"),
    "wudi": Variant("wudi", {"steps": STEPS}),
    "task_arithmetic_svc": Variant("task_arithmetic", svc=True),
}
"""Linear merges are formed in float64, as evaluation forms them, to give an expert back exactly."""


class Renamed(Mapping[str, Tensor]):
    """Tensors of a CLIPVisionModel under the suite's names of a block's parts, by which methods tell matrices."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors
        self._names = {rename(name): name for name in tensors}

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[self._names[name]]


def rename(name: str) -> str:
    """Return a tensor's name with the suite's name of its part of a block."""
    for modules in BLOCK:
        for ours, theirs in modules.items():
            name = name.replace(f".{theirs}.", f".{ours}.")
    return name


def merge_models(
    variant: Variant, base: Mapping[str, Tensor], experts: Sequence[Mapping[str, Tensor]], seed: int
) -> Weights:
    """Merge all tensors of `experts` into one model; `seed` is that of random methods."""
    names = {rename(name): name for name in base}
    merged = _merge(variant, Renamed(base), [*map(Renamed, experts)], seed)
    return {names[name]: tensor for name, tensor in merged.items()}


def _merge(variant: Variant, base: Mapping[str, Tensor], experts: Sequence[Mapping[str, Tensor]], seed: int) -> Weights:
    method = methods.load(variant.method)
    params = method.Params(**variant.params)
    seeds = (seed,) if hasattr(params, "seeds") else ()
    vectors = TaskVectors(base, experts, [*base])
    if variant.by_tensor:

        def merge_tensor(name: str) -> Tensor:
            return method.merge(TaskVectors(base, experts, [name]), params, *seeds)[name]

        return add_delta(base, map_tensors(merge_tensor, vectors))
    answer = method.merge(vectors, params, *seeds)
    if variant.svc:
        return add_delta(base, calibrate_solution(vectors, Solution(coefficients=answer), ALPHA))
    if isinstance(answer, Tensor):
        return merge_experts(base, experts, [*base], answer)
    return add_delta(base, answer)


def open_models(folder: Path) -> tuple[store.TensorFile, list[store.TensorFile]]:
    """Open the files of the base and of the experts, in order."""
    count = sum(path.name.isdigit() for path in folder.iterdir())
    base, *experts = (store.TensorFile(folder / str(name) / "model.safetensors") for name in ("base", *range(count)))
    return base, experts


def main() -> None:
    """Parse the command line, read, merge and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("variant", choices=VARIANTS)
    parser.add_argument("models", type=Path)
    parser.add_argument("merged", type=Path)
    parser.add_argument("--seed", type=int, default=0, help="of random methods")
    arguments = parser.parse_args()
    torch.set_num_threads(count_workers())
    base, experts = open_models(arguments.models)
    store.write_tensors(arguments.merged, merge_models(VARIANTS[arguments.variant], base, experts, arguments.seed))


if __name__ == "__main__":
    main()
