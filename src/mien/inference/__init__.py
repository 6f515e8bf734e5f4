"""Detector, classifier (ONNX Runtime) and recognizer."""
