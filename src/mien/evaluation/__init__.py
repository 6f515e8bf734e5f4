"""Metrics, calibration and reports of exported models."""
