"""The options of the commands: their parsers, checks, help and hints; the schema of a recipe is in ``io.options``."""
