"""The suites: <suite>.yaml defines a suite, <family>.py is the code of its family; there is no registry.

A definition names its `family`; the rest of it is the family's `Definition`. Every family file has

    Definition    the schema of the definition
    Recipe        the schema of its parameters, `recipe.<suite>` in params.yaml
    sizes         (definition, recipe) -> images per task and split, known before anything is prepared
    prepare       (name, definition, recipe, checkpoints, folder): writes the layout of `pipeline.models.suite`
    train         (definition, recipe, folder), only if the family trains its weights: writes `checkpoints`
"""

from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import ValidationError

from pipeline.runtime import store
from pipeline.runtime.errors import BenchmarkError, abbreviate

FOLDER = Path(__file__).parent


def names() -> tuple[str, ...]:
    """Return the names of all suites, sorted."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))


def load(name: str) -> tuple[ModuleType, Any]:
    """Load the family's module and the definition of a suite; `name` must be one of `names()`.

    Raises BenchmarkError for an invalid definition.
    """
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
        raise BenchmarkError(f"{path}: {where} = {abbreviate(first['input'])}: {first['msg']}") from error
