"""Pure functions on counts and arrays: no I/O, no drgate nouns, no torch."""
