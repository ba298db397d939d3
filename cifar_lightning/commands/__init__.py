"""One command of the command line a file, each with ``main(argv)``."""
