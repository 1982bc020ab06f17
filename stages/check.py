"""Check params.yaml as a whole, before any other stage starts.

DVC looks for the files of a method or suite before it starts their stages. Only a stage that comes before those can say
that a name is unknown; every other stage follows from its output, which is always the same.
"""

from importlib import import_module

from pipeline.runtime import store
from pipeline.runtime.stage import Job, Stage

STAGE = Stage(
    name="check", arguments=(), params=(), inputs=("params.yaml",), outputs=("data/checked.json",), recorded=False
)


def run(job: Job) -> None:
    """Write that the file is valid."""
    # Imported by name: all that params.py imports is then no dependency of the stage.
    params = import_module("pipeline.params")
    params.check(params.read(job.inputs[0]))
    store.write_json(job.outputs[0], {"params.yaml": "valid"})


if __name__ == "__main__":
    STAGE.main(run)
