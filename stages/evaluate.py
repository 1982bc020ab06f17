"""Count correct answers of a merge, whatever method made it, on every task, and what it needs at inference."""

from pipeline import store
from pipeline.costs import costs
from pipeline.evaluate import HEADER, rows
from pipeline.stage import Job, Stage

STAGE = Stage(
    name="evaluate",
    arguments=("suite", "method"),
    params=("evaluation_split",),
    inputs=("data/suites/{suite}", "data/merges/{suite}/{method}"),
    outputs=("data/scores/{suite}/{method}.csv", "data/costs/{suite}/{method}.json"),
    modules=("pipeline.extras.*",),
)


def run(job: Job) -> None:
    """Write a row per task and seed, and the costs of the first seed."""
    folder, artefact = job.inputs
    method = job.names["method"]
    scores = rows(folder, method, [artefact], job.params["evaluation_split"], f"evaluate {method}")
    store.write_csv(job.outputs[0], HEADER, scores)
    store.write_json(job.outputs[1], costs(folder, artefact))


if __name__ == "__main__":
    STAGE.main(run)
