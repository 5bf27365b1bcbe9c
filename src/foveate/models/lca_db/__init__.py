"""LCA-DB, the dual-branch network with cross attention of lesion and context."""
