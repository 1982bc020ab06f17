"""Evidence -> everything that people look at. Each step is a pure function of the one before.

    collect     data/ -> reports/evidence, the only step that reads data/
    evidence    reports/evidence -> typed values; needs no torch
    render      evidence -> {path: content} of every table, figure, page and metric
    views/      one file per section of a suite: its numbers, tables, figures and sentences
    studies/    one file per study, the same way
    view        what a view is; words, tables, figures, page: what views are made of

`render` knows no clock and no machine: what it writes depends on the evidence and the `report` parameters alone.
"""
