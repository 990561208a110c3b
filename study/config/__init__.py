"""What a study file says: read, validated, expanded into trials. Pure; begin with ``loader``."""
