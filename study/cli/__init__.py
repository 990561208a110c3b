"""The commands and their output. Start reading at ``commands``."""
