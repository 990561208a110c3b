"""Everything that only a GPU can show, in one run of minutes: begin with ``README.md`` and ``runner``."""
