"""The commands and what they print; begin with ``commands``."""
