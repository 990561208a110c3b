"""Reads and validates study files, and expands them into trials. Pure; begin with ``loader``."""
