"""Are these numbers true? `python -m pipeline.audit` prints a line per check; exit code 0 only if all of them hold.

    lock          stages, commands, code, parameters, evidence, report and data are those whose hashes dvc.lock holds;
                  the files that stages import are among their code
    rendered      the report follows from the evidence: it is rendered again, byte by byte
    arithmetic    counts are possible and those of the answers; the numbers of a suite's tables follow from them
    contrasts     the rows of the studies are whole, and the comparisons and numbers per task that studies state follow
    conflict      of the study of that name, which labels differ and which answers a single model can give, too
    label_spaces  of the study of that name, its pairs and which answers a single model can give, too
    examples      no calibration example is a test example; numbers of examples and classes are those that are claimed
    draws         seeds, and the indices of the examples that each seed drew, from the definition of the generator
    documents     blocks and numbers of README.md and docs/ are those of the reports
    environment   versions are those of requirements.lock; the device is recorded
    rerun         on request, stages chosen at random are computed again and give the same bytes

All but `rendered` and `documents` import nothing of the project but its errors and `pipeline.runtime.machine`. No check
needs torch, a GPU or DVC. A clone has the evidence and the lock: the evidence is turned back into files of data/, whose
hashes the lock holds. Where data/ is there too (`dvc pull`, a finished run, a bundle of `pipeline.audit.bundle`)
everything else is compared as well. Every line says what was not checked.

    repository.py   files, their hashes, what the evidence restores
    suite.py        what several checks read of a suite
    finding.py      the outcome of one check
    stages.py       dvc.yaml and params.yaml -> what every stage must be locked with
    imports.py      the files that a stage imports, for `lock`
    rows.py         scores and rows as numbers, for `arithmetic` and `contrasts`
    statements.py   numbers per task in tables and sentences of studies, for `contrasts`
    intervals.py    over examples, seeds and tasks, for `arithmetic` and `contrasts`
    archive.py      a bundle -> a folder like a repository
    kept.py         runs beside the default one -> folders like repositories, which go through the same checks
"""
