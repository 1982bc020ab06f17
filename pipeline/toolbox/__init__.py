"""Mathematics that several methods share, as plain functions of tensors.

trimming      trim task vectors, elect signs, merge what agrees     dropping    drop random entries and rescale the rest
conventions   which tensors are decomposed as matrices              spectra     singular values, orthonormal factors
essential     essential subspaces of task vectors                   factors     low-rank factors, in one gauge
regression    least squares over the inputs of matrices             activations of a tower, and their Gram matrices
norms         against experts that drown others                     fusion      importance by the softmax of weights
mloss         what averaging costs at a layer                       parts       parts of a tensor that stay in the cache

Nothing here knows a method, a file or a calibration loop.
"""
