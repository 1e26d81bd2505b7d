"""`python -m sidecar`: see `sidecar.main`."""

import sys

from headrace import collector

collector.rest()  # before the imports of the next line

from sidecar.main import main  # noqa: E402

sys.exit(main())
