"""Makes figures, the HTML page and exports from tables and records. Start reading at ``builder``."""
