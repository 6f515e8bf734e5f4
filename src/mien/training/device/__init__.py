"""Training that lives on a GPU: PyTorch alone, with images, views and networks in its memory."""
