"""Reads and validates study files, and expands them into trials. Start reading at ``loader``."""
