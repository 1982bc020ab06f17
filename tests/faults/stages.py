"""Every stage with arguments from a finished run of the tests' suite, and the states its outputs may be in."""

from importlib import import_module
from pathlib import Path

from pipeline.runtime.stage import Stage

STAGES = {
    "train": ("nano-3",),
    "prepare": ("nano-3",),
    "teach": ("nano-3",),
    "diagnose": ("nano-3",),
    "merge": ("nano-3", "ties"),
    "calibrate": ("nano-3", "distillation"),
    "samerging": ("nano-3",),
    "svc": ("nano-3", "ties"),
    "rescale": ("nano-3", "ties"),
    "surgery": ("nano-3", "samerging"),
    "evaluate": ("nano-3", "ties"),
    "collect": ("nano-3",),
    "render": (),
}
STUDIES = ("ablation", "conflict", "conventions", "flatness", "protocol", "replicates", "tasks")
"""Without efficiency, which has a test of its own, and those that need merges which this run lacks."""
Content = dict[str, bytes] | None
OLD = b"of an earlier run"


def study_stage(name: str) -> Stage:
    """The declaration of a study."""
    return import_module(f"stages.studies.{name}").STAGE


def outputs(name: str, root: Path = Path()) -> list[Path]:
    """The outputs of a stage without its run record."""
    stage: Stage = import_module(f"stages.{name}").STAGE
    names = dict(zip(stage.arguments, STAGES[name], strict=True))
    return [root / path.format(**names) for path in stage.outputs]


def content(path: Path) -> Content:
    """Every file of an output; None if it is absent."""
    if not path.exists():
        return None
    files = [path] if path.is_file() else [file for file in sorted(path.rglob("*")) if file.is_file()]
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in files}


def age(path: Path) -> None:
    """Overwrite the files of an output as if an earlier run had made them."""
    for file in [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]:
        file.write_bytes(OLD)


def whole(path: Path, new: Content) -> bool:
    """Whether an output is absent, the earlier one or the new one, with all its files."""
    return content(path) in (None, new, dict.fromkeys(new or (), OLD))


def restore(path: Path, new: Content) -> None:
    """Put the new output in place."""
    for name, written in (new or {}).items():
        file = path / name if name != "." else path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(written)
