"""Are these numbers true? `python -m pipeline.audit` answers: a line per check, exit code 0 only if all of them hold.

The audit trusts no line of the code that made the numbers. It reads files, imports nothing of the project but its
errors, needs numpy, pandas and pyyaml, no torch, no GPU and no DVC, and recomputes by other means:

    lock          stages, commands, code, parameters, report and data are those whose hashes dvc.lock holds;
                  what stages import is among their code
    numbers       every table, plot and sentence follows from integer counts of correct answers
    documents     so do the generated blocks, scales and cited points of README.md and docs/
    studies       so do the numbers of the studies, from the rows that each wrote, with the answers to every image
    images        no calibration image is a test image; numbers of images and classes are those that are claimed
    draws         seeds, and the indices of the images that each seed drew, from the definition of the generator
    environment   versions are those of requirements.lock; the device is recorded
    rerun         on request, stages chosen at random are computed again and give the same bytes

What is at hand decides how far it sees. A clone has reports/ and the lock: then the integer scores of reports/scores,
the rows of reports/studies and the records of reports/records.json are turned back into the files of data/ that they
came from, whose hashes the lock holds. Where data/ is at hand too (`dvc pull`, a finished run, a bundle of
`python -m pipeline.bundle`) everything else is compared as well. Every line says what was not checked, because it
was not at hand or follows from nothing that is; nothing is taken for checked that was not.

    repository.py   what is at hand: files, their hashes, what reports/ restores
    finding.py    the outcome of one check
    stages.py     dvc.yaml and params.yaml -> what every stage must be locked with
    lock.py, numbers.py, images.py, draws.py, environment.py, rerun.py      the checks; imports.py is a part of lock.py
    studies.py    the check of the studies
    rows.py, studied/, claimed.py, resampled.py
                  their rows -> what every cell and sentence must say -> whether it does; intervals
    known.py      the scores of a suite, and everything that follows from them
    recompute.py  integer counts -> every value that a table shows
    printed.py    Markdown, LaTeX and HTML tables -> cells
    sentences.py, comparisons.py, figures.py      parts of numbers.py
    archive.py    a bundle -> a folder like a repository
    methods.py    the run of every method -> a folder like a repository, which goes through the same checks
"""
