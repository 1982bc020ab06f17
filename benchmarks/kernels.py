"""How many predictions another processor's kernels change: `python -m benchmarks.kernels OTHER`.

OTHER is a clone in which the default run has finished under other kernels, for example with
`ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 MKL_CBWR=COMPATIBLE OPENBLAS_CORETYPE=Nehalem
NPY_DISABLE_CPU_FEATURES=X86_V3 make repro`. The default run of this folder has finished too. Nothing is run.
"""

import argparse
from pathlib import Path

from benchmarks import measure
from pipeline.runtime import store
from pipeline.runtime.device import device


def main() -> None:
    """Parse the command line, compare, print the rows that differ, write benchmarks/results/kernels-*.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("other", type=Path)
    parser.add_argument("--suite", default="mini-8")
    arguments = parser.parse_args()
    rows = {}
    for path in sorted(Path("data/answers", arguments.suite).glob("*.npz")):
        here, there = store.read_arrays(path), store.read_arrays(arguments.other / path)
        tasks = [name for name in here if not name.startswith("labels/")]
        predictions = sum(here[task].size for task in tasks)
        different = {task: int((here[task] != there[task]).sum()) for task in tasks}
        rows[path.stem] = {"predictions": predictions, "different": different}
        print(f"{path.stem:28} {sum(different.values()):4} of {predictions:,}")
    if not rows:
        parser.error(f"--suite {arguments.suite}: no answers in data/answers; run `make repro` first, here and there")
    measure.write(f"kernels-{arguments.suite}", {"suite": arguments.suite}, device(), {"rows": rows})


if __name__ == "__main__":
    main()
