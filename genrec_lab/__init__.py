"""genrec_lab: a notebook-first workbench for generative recommendation with semantic identifiers."""

import os

__version__ = "0.2.0"

# Threads that wait for each other sleep. By default they spin, and a training step beside another busy
# process then takes several times as long. torch reads this when it is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
