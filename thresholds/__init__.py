"""Gate specs that ship with drgate: the YAML files beside this one, read by name (`drgate spec list`)."""
