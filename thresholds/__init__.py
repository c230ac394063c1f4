"""Checklists that ship with drgate: the YAML files in this folder, read by name (`drgate spec list`)."""
