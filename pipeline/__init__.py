"""Model merging by multi-teacher distillation: theta = theta_0 + sum_t lambda_t * tau_t, tau_t = theta_t - theta_0.

A suite is a set of tasks on one backbone; a method edits the task vectors, picks the coefficients lambda, or both.

    models/         what is merged: suite, encoders of images and texts, task vectors, samples
    calibration/    learning coefficients: objectives, sharpness-aware gradients, descent
    methods/        one file per method, found by its name
    toolbox/        mathematics that several methods share
    merges/         what a method returns, how it is stored, served and counted
    steps/          what the stages do, one module per stage
    suites/         where models, images and texts come from, one file per family
    embedded/       training and images of the embedded suites: all that their checkpoints depend on
    diagnostics/    measures that are known before merging
    studies/        why a method wins, one file per study
    statistics/     counts -> accuracies, intervals, contrasts
    report/         results -> evidence -> tables, figures, pages
    export/         a merged model as a folder that other programs load
    audit/          are the numbers true? by code of its own
    runtime/        how a stage runs: guarantees, files, processes, devices
    params          the schema of params.yaml, and the only reader of its values

docs/architecture.md has the order in which packages may import each other.
"""
