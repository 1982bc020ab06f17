"""One thin script per DVC stage: declare, load, call, save. `python -m stages.<name> <arguments>`, from the root."""

import os

# Threads that wait for work should sleep: spinning, the default, makes a two-threaded run five times slower when the
# cores have other work. Read when torch is loaded, therefore set here.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
