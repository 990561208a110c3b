"""Turns stored records into metrics, tables and claims, without torch. Start reading at ``tables``."""
