"""Batch analysis of folders of any size: constant memory, resumable after any kill."""
