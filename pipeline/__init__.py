"""Model merging by multi-teacher distillation: theta = theta_0 + sum_t lambda_t * tau_t, tau_t = theta_t - theta_0.

A suite is a set of tasks on one backbone; a method edits the task vectors, picks the coefficients lambda, or both.

    params       params.yaml: schema and only reader          schema      what parameter sets share
    suite        a suite on disk                              suites/     one file per family of suites
    embedded/    images and training of the embedded suites, all that their checkpoints depend on
    model        an image encoder's weights                   tower       the encoder as pure functions of them
    vectors      task vectors, merge, gradient contraction    features    features of many images
    methods/     one file per method                          toolbox/    what several methods share
    calibrate    the calibration loop and sharpness           objectives  distillation, entropy
    problem      from files to one calibration                draws       seeded draws of everything
    solution     what a method answers                        memory      what a calibration needs, said before
    merges       the artefact of a merge                      extras/     models that are more than merged weights
    rescale      a merge's scale, chosen without labels       surgery     adapters on top of a merge
    refine       what those two share                         teach       teacher logits
    evaluate     asking merges, counting right answers        answers     the artefact of an evaluation
    costs        bytes and operations at inference            corruptions  images blurred, noisy or compressed
    studies/     why a method wins, one file per study        trial       one calibration, scored
    diagnostics/ measures known before merging                headroom    what a data-free merge needs, said before
    preview      images for the contact sheet                 hub         files of public repositories, verified
    curvature    Hessians and sharpness of coefficients
    statistics/  counts -> accuracies, intervals, contrasts   report/     evidence -> tables, figures, pages
    stage        declaration and guarantees of a DVC stage    parallel    independent pieces on every core
    cells        pieces whose results outlive a killed stage  cluster     cells on a Ray cluster
    processes    how processes end together               machine     processor and driver
    store        files in and out, atomically                 errors      the user's errors
    audit/       are these numbers true, by other code        bundle      what a reviewer needs, in one archive
"""
