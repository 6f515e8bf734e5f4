"""Training the released models on one lent GPU: an engine and the kit around it."""
