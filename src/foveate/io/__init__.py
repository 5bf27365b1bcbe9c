"""A file becomes an ``Image``: see ``reading``."""
