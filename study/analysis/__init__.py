"""From stored records to metrics, tables and claims. Imports no torch; begin with ``tables``."""
