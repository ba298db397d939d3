"""One verb of the command line a file, each with ``main(argv)``."""
