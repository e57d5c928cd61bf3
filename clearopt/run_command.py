"""`clearopt run`."""
