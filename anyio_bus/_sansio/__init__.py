"""Bytes, values and tables of the bus: no clock, no I/O, no await."""
