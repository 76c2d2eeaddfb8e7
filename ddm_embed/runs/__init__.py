"""Run directories: the one room that reads and writes what is in them."""
