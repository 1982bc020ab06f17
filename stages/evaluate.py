"""Run a merge, by any method, on every example of every task: count correct answers, and its costs at inference."""

from pipeline.merges import answers
from pipeline.merges.costs import count_costs
from pipeline.runtime import store
from pipeline.runtime.stage import Job, Stage
from pipeline.steps.evaluate import SCORE_COLUMNS, count_correct, predict_seeds

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
    scores, costs, predictions = job.outputs
    suite, method = job.names["suite"], job.names["method"]
    predicted = predict_seeds(folder, artefact, job.params["evaluation_split"], f"evaluate {method}")
    store.write_csv(scores, SCORE_COLUMNS, count_correct(suite, method, artefact, predicted))
    store.write_json(costs, count_costs(folder, artefact))
    answers.save_answers(predicted, predictions)


if __name__ == "__main__":
    STAGE.main(run)
