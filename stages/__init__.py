"""One thin script per DVC stage: declare, load, call, save. From the root: `python -m stages.<name> <arguments>`."""

import os

# Waiting threads should sleep: spinning, the default, makes a two-threaded run five times slower when the cores have
# other work. Set here because torch reads it when it is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
