"""Stage `check`: params.yaml is valid; every other stage starts with the same check.

DVC looks for the files of a method or suite before it starts its stages. Only a stage that comes before those can say
that a name is unknown.
"""

from pipeline.runtime.stage import Job, Stage

STAGE = Stage(name="check", arguments=(), params=(), inputs=("params.yaml",), outputs=(), recorded=False)


def run(job: Job) -> None:
    """Do nothing: a stage checks the parameters before it runs."""


if __name__ == "__main__":
    STAGE.main(run)
