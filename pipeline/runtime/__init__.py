"""How a stage runs: its declaration and guarantees, files, processes, devices. Knows nothing of models.

stage       the declaration of a stage, and the guarantee that its outputs belong to its code, parameters and inputs
imports     the files that importing a module runs
resumable   pieces of work whose results outlive a killed stage
parallel    pieces on every core                        cluster     pieces on a Ray cluster
threads     a model's tensors side by side
store       files in and out, atomically                schema      the base of all sections of params.yaml
processes   how processes end, and use memory           device      the device to compute on
machine     processor and driver                        errors      errors that the user can fix
"""
