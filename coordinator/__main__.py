"""`python -m coordinator`."""

import sys

from headrace import collector

collector.rest()  # before the imports of the next line

from coordinator.main import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
