"""The HTTP service: FastAPI around one recognizer. `mien.interfaces.http.app` makes it."""
