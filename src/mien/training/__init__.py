"""Recipes, data, networks, the training loop and export: the only package that imports Keras."""
