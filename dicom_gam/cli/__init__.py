"""One file per command group; no logic.

OpenMP reads its settings when torch is loaded, so they are set here, before any command group is imported: threads
that wait sleep. By default they spin, which on a machine that does anything else costs many times the work itself.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
