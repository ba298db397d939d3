"""What is read from and written to the world outside: files, downloads, YAML, JSON, text on a terminal, streams."""
