"""A stage: its declaration, and the guarantee that its outputs belong to its code, parameters and inputs.

A stage script declares the parameters, inputs and outputs that dvc.yaml declares for it (tests/test_pipeline.py keeps
the two in step). It gets those values and nothing else. Its outputs appear when it has succeeded, complete, or not at
all. DVC hashes dependencies only after a command has ended: a stage whose code, parameters or inputs changed while it
ran therefore fails and says so.
"""

import hashlib
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from pipeline.runtime import store
from pipeline.runtime.device import device, is_out_of_memory
from pipeline.runtime.errors import BenchmarkError
from pipeline.runtime.imports import import_closure, list_modules
from pipeline.runtime.machine import read_driver_version, read_processor_name
from pipeline.runtime.processes import Interruptible, die_with_parent, keep_freed_memory
from pipeline.runtime.resumable import Resumable, open_work
from pipeline.runtime.schema import to_plain

PARAMS = Path("params.yaml")
PACKAGES = (
    "torch", "open_clip_torch", "numpy", "safetensors", "pillow", "scikit-learn", "scikit-image", "mlxtend",
    "huggingface_hub", "pyarrow", "tokenizers",
)  # fmt: skip

DEVICE_VARIABLES = ("SAMERGING_DEVICE", "CUDA_VISIBLE_DEVICES", "SAMERGING_GPUS")


class ChangedWhileRunning(BenchmarkError):
    """Code, parameters or inputs of the stage changed after it started."""


@dataclass(frozen=True)
class Job:
    """What a running stage may use."""

    names: Mapping[str, str]
    """The stage's arguments by name: suite, method."""
    params: Mapping[str, Any]
    """The declared parameters, by their declared (unformatted) keys."""
    inputs: tuple[Path, ...]
    """The declared inputs, in order."""
    outputs: tuple[Path, ...]
    """Where to write the declared outputs, in order; moved into place when the stage succeeds."""
    work: Resumable
    """Runs pieces of work whose results a killed stage need not compute again."""


@dataclass(frozen=True)
class Stage:
    """The declaration of a stage; `{suite}` and `{method}` in its strings stand for its arguments."""

    name: str
    arguments: tuple[str, ...]
    params: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    modules: tuple[str, ...] = ()
    """Modules that the stage imports by name: `pipeline.methods.{method}`; `pipeline.suites.*` is a whole package."""
    basis: tuple[str, ...] = ()
    """The only modules that decide the outputs, where the import closure of the script would name far more."""
    keeps_results: bool = False
    """Whether results of pieces outlive a success: a study whose grid grows then computes only the new pieces."""
    recorded: bool = True
    """Whether a run record (hardware, versions, seconds) is the last output, under data/runs."""

    def record(self, names: Mapping[str, str]) -> str:
        """Return the path of the run record.

        In data/runs, or for `studies.*` in data/studies/runs, so that readers of the former do not see them.
        """
        *folders, name = self.name.split(".")
        return Path("data", *folders, "runs", f"{'-'.join((name, *names.values()))}.json").as_posix()

    def main(self, function: Callable[[Job], None]) -> None:
        """Run the stage with the arguments of the command line.

        A BenchmarkError, or a GPU whose memory is full, is a message and exit code 1; Ctrl-C is exit code 130. The
        process ends when its parent does.
        """
        die_with_parent()
        keep_freed_memory()
        values = sys.argv[1:]
        if len(values) != len(self.arguments):
            sys.exit(f"usage: python -m stages.{self.name} {' '.join(f'<{name}>' for name in self.arguments)}")
        try:
            with Interruptible():
                self.run(function, dict(zip(self.arguments, values, strict=True)))
        except BenchmarkError as error:
            sys.exit(f"{self.name}: {error}")
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            sys.exit(
                f"{self.name}: the GPU's memory is full; see what else uses it, ask for less (a smaller batch_size, "
                f"fewer samples_per_task, a suite with fewer tasks), or set SAMERGING_DEVICE=cpu. From torch: {error}"
            )
        except KeyboardInterrupt:
            print(f"{self.name}: interrupted; `dvc repro` goes on from here", file=sys.stderr)
            sys.exit(130)

    def run(self, function: Callable[[Job], None], names: Mapping[str, str]) -> None:
        """Call `function` with the stage's job, then move its outputs into place and write the run record.

        Raises BenchmarkError if an input is missing, ChangedWhileRunning if code, parameters or inputs changed
        meanwhile; the old outputs then stay, and so do the results of pieces.
        """
        started, code = time.monotonic(), _contents(self.code(names))
        settings, params = _signatures([PARAMS]), self._values(names)
        inputs = tuple(Path(path.format(**names)) for path in self.inputs)
        for path in inputs:
            if not path.exists():
                raise BenchmarkError(f"{path} is missing; `dvc repro` makes it, `dvc checkout` brings it back")
        before = _signatures(inputs)
        outputs = tuple(Path(path.format(**names)) for path in self.outputs)
        scratch = Path("data/.partial") / Path(self.record(names)).stem
        places = tuple(scratch / str(index) / path.name for index, path in enumerate(outputs))
        with store.claiming(scratch):
            work = open_work(
                scratch.name, (*inputs, scratch), sorted(code.items()), sorted(before.items()), _environment()
            )
            job = Job(names, params, inputs, places, work)
            for path in job.outputs:
                with store.writing(path):
                    path.parent.mkdir()
            function(job)
            changed = [f"code {path}" for path, hashed in code.items() if hashed != _contents([path]).get(path)]
            if _signatures([PARAMS]) != settings:
                changed += [f"parameter {key}" for key, value in self._values(names).items() if value != params[key]]
            changed += [f"input {path}" for path, signature in _signatures(inputs).items() ^ before.items()]
            if changed:
                listed = ", ".join(sorted(set(changed)))
                raise ChangedWhileRunning(f"changed while the stage ran: {listed}; run it again")
            for written, path in zip(job.outputs, outputs, strict=True):
                store.move(written, path)
            if not self.keeps_results:
                work.clear()
        if self.recorded:
            store.write_json(Path(self.record(names)), _record(self.name, names, params, time.monotonic() - started))

    def code(self, names: Mapping[str, str]) -> list[Path]:
        """Return the project's files that decide the outputs: the import closure of the script and its `modules`.

        For a stage with a `basis`: the closure of that, and the script itself.
        """
        if self.basis:
            return sorted({*import_closure(list_modules(self.basis, names)), Path(f"stages/{self.name}.py")})
        return import_closure([f"stages.{self.name}", *list_modules(self.modules, names)])

    def _values(self, names: Mapping[str, str]) -> dict[str, Any]:
        if not self.params:
            return {}
        # Imported by name: params.py is then no dependency of the stage. It rejects values but never changes one.
        loaded = import_module("pipeline.params").load([key.format(**names) for key in self.params])
        return dict(zip(self.params, loaded.values(), strict=True))


def _contents(paths: Iterable[Path]) -> dict[Path, str]:
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths if path.is_file()}


def _signatures(paths: Iterable[Path]) -> dict[Path, tuple[int, int, int]]:
    files = [file for path in paths for file in ([path] if path.is_file() else sorted(path.rglob("*")))]
    stats = {file: file.stat() for file in files if file.is_file()}
    return {file: (stat.st_ino, stat.st_size, stat.st_mtime_ns) for file, stat in stats.items()}


def _environment() -> tuple[Any, ...]:
    """Return what results depend on besides code, parameters and inputs: what chooses a device, and the packages."""
    return *map(os.environ.get, DEVICE_VARIABLES), read_driver_version(), *_versions().items()


def _versions() -> dict[str, str]:
    return {package: metadata.version(package) for package in PACKAGES}


def _record(name: str, names: Mapping[str, str], params: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """Return where and how a stage ran: measurements, not results."""
    import torch

    used = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    target = device()
    return {
        "stage": name,
        "arguments": dict(names),
        "params": {key.format(**names): to_plain(value) for key, value in params.items()},
        "seconds": round(seconds, 1),
        "peak_mib": max(used) // 1024,
        "peak_gpu_mib": torch.cuda.max_memory_allocated(target) >> 20 if target.type == "cuda" else None,
        "device": torch.cuda.get_device_name(target) if target.type == "cuda" else "cpu",
        "driver": read_driver_version() if target.type == "cuda" else None,
        "cuda": torch.version.cuda if target.type == "cuda" else None,
        "processor": read_processor_name(),
        "cores": len(os.sched_getaffinity(0)),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": _versions(),
    }
