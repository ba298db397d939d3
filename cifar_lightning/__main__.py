"""``python -m cifar_lightning``."""

import sys

from cifar_lightning.cli import main

if __name__ == "__main__":
    sys.exit(main())
