"""A stage: what it declares, and the guarantee that it ran on exactly that.

A stage script declares the parameters, inputs and outputs that dvc.yaml declares for it (tests/test_pipeline.py holds
the two together). It is given those values and nothing else. Its outputs appear when it has succeeded, whole, or not at
all. DVC hashes dependencies again after a command: a stage whose code, parameters or inputs changed while it ran
therefore fails and says so.
"""

import ast
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

import torch

from pipeline.runtime import store
from pipeline.runtime.device import device
from pipeline.runtime.errors import BenchmarkError
from pipeline.runtime.machine import driver, processor
from pipeline.runtime.processes import Interruptible, die_with_parent
from pipeline.runtime.resumable import Resumable, open_work
from pipeline.runtime.schema import Parameters

PACKAGES = (
    "torch", "open_clip_torch", "numpy", "safetensors", "pillow", "scikit-learn", "scikit-image", "mlxtend",
    "huggingface_hub", "pyarrow",
)  # fmt: skip


class ChangedWhileRunning(BenchmarkError):
    """Code, parameters or inputs of the stage are not what they were when it started."""


@dataclass(frozen=True)
class Job:
    """What a running stage is given."""

    names: Mapping[str, str]
    """The stage's arguments: suite, method."""
    params: Mapping[str, Any]
    """The declared parameters, by their declared (unformatted) keys."""
    inputs: tuple[Path, ...]
    outputs: tuple[Path, ...]
    """Where to write, in the order declared; moved into place when the stage succeeds."""
    work: Resumable
    """Where pieces of work are kept that a killed stage need not repeat."""


@dataclass(frozen=True)
class Stage:
    """The declaration of a stage; `{suite}` and `{method}` stand for its arguments."""

    name: str
    arguments: tuple[str, ...]
    params: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    modules: tuple[str, ...] = ()
    """Modules that the stage finds by name: `pipeline.methods.{method}`, or `pipeline.suites.*` for a whole folder."""
    basis: tuple[str, ...] = ()
    """Modules that alone decide the outputs, where the import closure of the script would name far more."""
    keeps_results: bool = False
    """Whether results of pieces outlive a success: a study whose grid has grown then computes only what is new."""
    recorded: bool = True
    """Whether a run record (hardware, versions, seconds) is the last output, under data/runs."""

    def record(self, names: Mapping[str, str]) -> str:
        """The path of the run record: data/runs, or data/studies/runs for `studies.*`, which are not read beside it."""
        *folders, name = self.name.split(".")
        return Path("data", *folders, "runs", f"{'-'.join((name, *names.values()))}.json").as_posix()

    def main(self, function: Callable[[Job], None]) -> None:
        """Run the stage with the arguments of the command line; exit code 1 and a message on a BenchmarkError.

        The same when a GPU's memory is full. Ends when the process that started it does; 130 after Ctrl-C.
        """
        die_with_parent()
        given = sys.argv[1:]
        if len(given) != len(self.arguments):
            sys.exit(f"usage: python -m stages.{self.name} {' '.join(f'<{name}>' for name in self.arguments)}")
        try:
            with Interruptible():
                self.run(function, dict(zip(self.arguments, given, strict=True)))
        except BenchmarkError as error:
            sys.exit(f"{self.name}: {error}")
        except torch.OutOfMemoryError as error:
            sys.exit(
                f"{self.name}: the GPU's memory is full; see what else uses it, ask for less (a smaller batch_size, "
                f"fewer samples_per_task, a suite with fewer tasks), or set SAMERGING_DEVICE=cpu. From torch: {error}"
            )
        except KeyboardInterrupt:
            print(f"{self.name}: interrupted; `dvc repro` goes on from here", file=sys.stderr)
            sys.exit(130)

    def run(self, function: Callable[[Job], None], names: Mapping[str, str]) -> None:
        """Check, run, check again, and only then move the outputs into place."""
        started, code = time.monotonic(), _contents(self.code(names))
        params = self._values(names)
        inputs = tuple(Path(path.format(**names)) for path in self.inputs)
        for path in inputs:
            if not path.exists():
                raise BenchmarkError(f"{path} is missing; `dvc repro` makes it, `dvc checkout` brings it back")
        before = _signatures(inputs)
        outputs = tuple(Path(path.format(**names)) for path in self.outputs)
        scratch = Path("data/.partial") / Path(self.record(names)).stem
        places = tuple(scratch / str(index) / path.name for index, path in enumerate(outputs))
        kept = open_work(scratch.name, inputs, sorted(code.items()), sorted(before.items()))
        job = Job(names, params, inputs, places, kept)
        with store.claiming(scratch):
            for path in job.outputs:
                with store.writing(path):
                    path.parent.mkdir()
            function(job)
            changed = [f"code {path}" for path, hashed in code.items() if hashed != _contents([path]).get(path)]
            changed += [f"parameter {key}" for key, value in self._values(names).items() if value != params[key]]
            changed += [f"input {path}" for path, signature in _signatures(inputs).items() ^ before.items()]
            if changed:
                found = ", ".join(sorted(set(changed)))
                raise ChangedWhileRunning(f"changed while the stage ran: {found}; run it again")
            for written, path in zip(job.outputs, outputs, strict=True):
                store.move(written, path)
        if not self.keeps_results:
            kept.clear()
        if self.recorded:
            store.write_json(Path(self.record(names)), _record(self.name, names, params, time.monotonic() - started))

    def code(self, names: Mapping[str, str]) -> list[Path]:
        """The project's files that decide the outputs: the import closure of the script and of its `modules`.

        Of a stage with a `basis`: the closure of that, and the script itself.
        """
        if self.basis:
            return sorted({*closure(_modules(self.basis, names)), Path(f"stages/{self.name}.py")})
        return closure([f"stages.{self.name}", *_modules(self.modules, names)])

    def _values(self, names: Mapping[str, str]) -> dict[str, Any]:
        # By name, so that the checker is no dependency: it refuses values, it never alters one.
        loaded = import_module("pipeline.params").load([key.format(**names) for key in self.params])
        return dict(zip(self.params, loaded.values(), strict=True))


def _modules(patterns: Iterable[str], names: Mapping[str, str]) -> list[str]:
    """Modules by name; `package.*` stands for a package and every module in it."""
    listed = []
    for pattern in patterns:
        package, star, _ = pattern.format(**names).partition(".*")
        files = sorted(Path(package.replace(".", "/")).glob("*.py")) if star else []
        listed += [package, *(f"{package}.{file.stem}" for file in files if file.stem != "__init__")]
    return listed


def closure(modules: Iterable[str], root: Path = Path()) -> list[Path]:
    """The files below `root` that importing `modules` runs, found by reading import statements.

    One that holds nothing but its docstring is left out: no result can depend on it.
    """
    waiting, seen, silent = [file for name in modules for file in _files(name, root)], set(), set()
    while waiting:
        file = waiting.pop()
        if file in seen:
            continue
        seen.add(file)
        tree = ast.parse((root / file).read_text("utf-8"))
        if not tree.body[ast.get_docstring(tree) is not None :]:
            silent.add(file)
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                imported = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            else:
                continue
            waiting += [found for name in imported for found in _files(name, root)]
    return sorted(seen - silent)


def _files(module: str, root: Path) -> list[Path]:
    """The files of a module and of the packages it lies in, if they are the project's."""
    parts, found = module.split("."), []
    for length in range(1, len(parts) + 1):
        stem = Path(*parts[:length])
        found += [file for file in (stem / "__init__.py", stem.with_suffix(".py")) if (root / file).is_file()]
    return found


def _contents(paths: Iterable[Path]) -> dict[Path, str]:
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths if path.is_file()}


def _signatures(inputs: Iterable[Path]) -> dict[Path, tuple[int, int, int]]:
    files = [file for path in inputs for file in ([path] if path.is_file() else sorted(path.rglob("*")))]
    stats = {file: file.stat() for file in files if file.is_file()}
    return {file: (stat.st_ino, stat.st_size, stat.st_mtime_ns) for file, stat in stats.items()}


def _record(name: str, names: Mapping[str, str], params: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """Where and how a stage ran: measurements, not results."""
    used = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    target = device()
    return {
        "stage": name,
        "arguments": dict(names),
        "params": {key.format(**names): _plain(value) for key, value in params.items()},
        "seconds": round(seconds, 1),
        "peak_mib": max(used) // 1024,
        "peak_gpu_mib": torch.cuda.max_memory_allocated(target) >> 20 if target.type == "cuda" else None,
        "device": torch.cuda.get_device_name(target) if target.type == "cuda" else "cpu",
        "driver": driver() if target.type == "cuda" else None,
        "cuda": torch.version.cuda if target.type == "cuda" else None,
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {package: metadata.version(package) for package in PACKAGES},
    }


def _plain(value: Any) -> Any:
    return value.model_dump() if isinstance(value, Parameters) else value
