"""The suites: <suite>.yaml defines one, <family>.py is the code of its family; no registry.

A definition names its `family`; the rest of it is the family's `Definition`. Every family file has Definition, Recipe
(its parameters, `recipe.<suite>` in params.yaml), `sizes(definition, recipe)` (images per task and split, known
beforehand) and `prepare(name, definition, recipe, checkpoints, folder)`, which writes the layout of `pipeline.models.suite`. A
family that trains its weights has `train(definition, recipe, folder)` too; what it writes is `checkpoints`.
"""

from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import ValidationError

from pipeline.runtime import store
from pipeline.runtime.errors import BenchmarkError, shown

FOLDER = Path(__file__).parent


def names() -> tuple[str, ...]:
    """The names of all suites, sorted."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))


def load(name: str) -> tuple[ModuleType, Any]:
    """The family's module and the definition of a suite; `name` must be one of `names()`."""
    path = FOLDER / f"{name}.yaml"
    families = sorted(file.stem for file in FOLDER.glob("[!_]*.py"))
    content = store.read_yaml(path)
    if not isinstance(content, dict) or content.get("family") not in families:
        raise BenchmarkError(f"{path}: expected a mapping with the key family, one of {', '.join(families)}")
    family = import_module(f"{__name__}.{content.pop('family')}")
    try:
        return family, family.Definition.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BenchmarkError(f"{path}: {where} = {shown(first['input'])}: {first['msg']}") from error
