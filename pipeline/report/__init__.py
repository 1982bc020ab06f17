"""Evidence -> every table, figure and page. Each step is a pure function of the one before.

    collect     data/ -> reports/evidence, the only step that reads data/
    evidence    reports/evidence -> typed values; needs no torch
    render      evidence -> {path: content} of every table, figure, page and metric
    views/      one file per section of a suite: its numbers, tables, figures and sentences
    studies/    one file per study, the same way
    view        the parts of a view; words, tables, figures and page turn them into text, drawings and HTML
    provenance  parameters, versions, stages and downloads behind a suite's section

`render` knows no clock and no machine: its output depends on the evidence and the `report` parameters alone.
"""
