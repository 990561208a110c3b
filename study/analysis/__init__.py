"""Turns stored records into metrics, tables and claims. Imports no torch; begin with ``tables``."""
