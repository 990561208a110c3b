"""Makes figures, the HTML page and exports from tables and records; begin with ``builder``."""
