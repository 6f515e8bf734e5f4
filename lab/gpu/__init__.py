"""Training of the released models on one rented GPU: an engine and a kit around it."""
