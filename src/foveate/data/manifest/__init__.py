"""The manifest: one row for each case, read and checked."""
