"""Faults of a data set: duplicates between its splits, suspected label errors, and odd images."""
