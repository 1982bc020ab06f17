"""Model merging by multi-teacher distillation: theta = theta_0 + sum_t lambda_t * tau_t, tau_t = theta_t - theta_0.

A suite is a set of tasks on one backbone; a method edits the task vectors, picks the coefficients lambda, or both.

    params       params.yaml: schema and only reader          schema      what parameter sets share
    suite        a suite on disk                              suites/     one file per family of suites
    model        the image encoder as a pure function         features    features of many images
    vectors      task vectors, merge, gradient contraction    objectives  distillation, entropy
    calibrate    the calibration loop and sharpness           methods/    one file per method
    teach        teacher logits                               problem     from files to one calibration
    merges       the artefact of a merge                      evaluate    counting correct answers
    study        data efficiency                              preview     images for the contact sheet
    results -> scores, anchors -> tables, figures -> page, report    from counts to what people look at
    hub          files of public repositories, verified
    stage        declaration and guarantees of a DVC stage    parallel    independent pieces on every core
    store        files in and out, atomically                 errors      the user's errors
"""
