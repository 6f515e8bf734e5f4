"""The networks that a recipe can name beside Keras' own: layers up to the last feature map."""
