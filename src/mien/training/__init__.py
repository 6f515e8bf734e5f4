"""Config, input pipeline, model, trainer and export: the only room that loads Keras."""
