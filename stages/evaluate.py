"""Ask a merge, whatever method made it, about every image of every task; count, and say what it needs at inference."""

from pipeline.merges import answers
from pipeline.merges.costs import costs
from pipeline.runtime import store
from pipeline.runtime.stage import Job, Stage
from pipeline.steps.evaluate import HEADER, ask, count

STAGE = Stage(
    name="evaluate",
    arguments=("suite", "method"),
    params=("evaluation_split",),
    inputs=("data/suites/{suite}", "data/merges/{suite}/{method}"),
    outputs=(
        "data/scores/{suite}/{method}.csv",
        "data/costs/{suite}/{method}.json",
        "data/answers/{suite}/{method}.npz",
    ),
    modules=("pipeline.merges.serving.*",),
)


def run(job: Job) -> None:
    """Write a row per task and seed, the costs of the first seed, and every answer."""
    folder, artefact = job.inputs
    suite, method = job.names["suite"], job.names["method"]
    found = ask(folder, artefact, job.params["evaluation_split"], f"evaluate {method}")
    store.write_csv(job.outputs[0], HEADER, count(suite, method, artefact, found))
    store.write_json(job.outputs[1], costs(folder, artefact))
    answers.save(found, job.outputs[2])


if __name__ == "__main__":
    STAGE.main(run)
