"""`python -m sidecar`: see `sidecar.main`."""

import os
import sys

from headrace import collector

collector.rest()  # before the imports of the next line

from sidecar.main import main  # noqa: E402

code = main()
sys.stdout.flush()
sys.stderr.flush()
os._exit(code)  # all that was promised is done; a thread may still wait for a store that doesn't answer
