"""Learning from unlabelled examples, mostly coefficients. Knows no method: methods call it.

problem       the data that a calibrated method may see
objectives    distillation and entropy
adam          Adam on the coefficients
sharpness     SAM and ASAM: the gradient at a perturbed point, with a second merge
descent       the gradient of the coefficients, and the loop
masks         the same with masks of singular components
alignment     the same for bounded coefficients, with hidden states
information   the diagonal Fisher information of an expert
rows          TIES row by row, with shares of entries that follow a score
memory        the memory that a calibration needs, estimated before it starts
"""
