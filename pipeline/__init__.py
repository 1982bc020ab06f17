"""Model merging by multi-teacher distillation: theta = theta_0 + sum_t lambda_t * tau_t, tau_t = theta_t - theta_0.

A suite is a set of tasks on one backbone; a method edits the task vectors, picks the coefficients lambda, or both.

    params       params.yaml: schema and only reader          schema      what parameter sets share
    suite        a suite on disk                              suites/     one file per family of suites
    model        an image encoder's weights                   tower       the encoder as pure functions of them
    vectors      task vectors, merge, gradient contraction    features    features of many images
    methods/     one file per method                          toolbox/    what several methods share
    calibrate    the calibration loop and sharpness           objectives  distillation, entropy
    problem      from files to one calibration                draws       seeded draws of everything
    solution     what a method answers                        memory      what a calibration needs, said before
    merges       the artefact of a merge                      extras/     models that are more than merged weights
    rescale      a merge's scale, chosen without labels       surgery     adapters on top of a merge
    refine       what those two share                         teach       teacher logits
    evaluate     counting correct answers                     costs       bytes and operations at inference
    study        data efficiency                              diagnostics/  measures known before merging
    preview      images for the contact sheet                 hub         files of public repositories, verified
    results -> scores, anchors -> tables, figures, heatmaps, verdict, references -> page, report
                 from counts to what people look at
    stage        declaration and guarantees of a DVC stage    parallel    independent pieces on every core
    store        files in and out, atomically                 processes   how stages and workers end
    errors       the user's errors
"""
