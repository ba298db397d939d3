"""``python -m cifar_lightning``."""

from cifar_lightning.cli import run

if __name__ == "__main__":
    run()
