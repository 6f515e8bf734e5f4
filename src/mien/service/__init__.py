"""The HTTP service: FastAPI around one recognizer. `mien.service.app` makes it."""
