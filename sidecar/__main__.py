"""`python -m sidecar`: see `sidecar.main`."""

import sys

from sidecar.main import main

sys.exit(main())
