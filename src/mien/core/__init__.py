"""Shared by all other packages: emotions, errors, results, images, files, model manifests."""
