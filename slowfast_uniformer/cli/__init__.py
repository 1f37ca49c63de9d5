"""The command line: `uniformer COMMAND`, one module per command. Nothing in the package imports it."""
