"""Files on disk: written whole or not at all, locks, and scratch folders."""
