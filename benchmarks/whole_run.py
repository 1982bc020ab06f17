"""What a whole run took, stage by stage, from the records that the stages wrote: `python -m benchmarks.whole_run`.

Records are read, nothing is run: call it after `make repro`, and again after `make studies`. Stages came one after the
other. Python's start and DVC's bookkeeping are not in their seconds.
"""

import argparse
from pathlib import Path

from benchmarks import measure
from pipeline.runtime import store
from pipeline.runtime.device import device

RECORDS = (Path("data/runs"), Path("data/studies/runs"))


def main() -> None:
    """Parse the command line, sum up, print the table, write benchmarks/results/whole_run-*.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--suite", default="mini-8")
    suite = parser.parse_args().suite
    records = [store.read_json(path) for folder in RECORDS for path in sorted(folder.glob("*.json"))]
    mine = [record for record in records if record["arguments"]["suite"] == suite]
    if not mine:
        parser.error(f"--suite {suite}: no record of it in {RECORDS[0]}; run `make repro` first")
    rows = {}
    for stage in dict.fromkeys(record["stage"] for record in mine):
        taken = {" ".join(record["arguments"].values()): record for record in mine if record["stage"] == stage}
        longest = max(taken, key=lambda name: taken[name]["seconds"])
        rows[stage] = {
            "stages": len(taken),
            "seconds": round(sum(record["seconds"] for record in taken.values()), 1),
            "longest": longest,
            "longest_seconds": taken[longest]["seconds"],
            "peak_mib": max(record["peak_mib"] for record in taken.values()),
        }
    for stage, row in sorted(rows.items(), key=lambda item: -item[1]["seconds"]):
        print(f"{stage:24} {row['stages']:4} stages  {row['seconds']:8.1f} s  {row['peak_mib']:7,} MiB")
    measure.write(f"whole_run-{suite}", {"suite": suite}, device(), {"rows": rows})


if __name__ == "__main__":
    main()
