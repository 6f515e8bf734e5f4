"""Folders without end: images in, rows out, in flat memory and safe from kills."""
