"""Learning coefficients from unlabelled examples. Knows no method: methods call it.

problem       the data that a calibrated method may see
objectives    distillation and entropy
sharpness     SAM and ASAM: the gradient at a perturbed point, with a second merge
descent       the gradient of the coefficients, and Adam on them
memory        the memory that a calibration needs, estimated before it starts
"""
