"""The command line: one file for each command, with what it prints; everything heavy is imported inside."""
