"""Learning coefficients from unlabelled images. Knows no method: methods call it.

problem       what a calibrated method may see
objectives    distillation and entropy
sharpness     SAM and ASAM: the gradient at a perturbed point, with a second merge
descent       the gradient of the coefficients, and Adam on them
memory        an estimate of the memory that a calibration needs
"""
