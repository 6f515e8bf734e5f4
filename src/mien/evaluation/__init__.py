"""Probabilities and labels to numbers; numbers to a report."""
