"""Commands: parse flags, call `vision`, print."""
