"""The command line: commands that parse, call the Python API, and render."""
