"""TFLite: a bundle written as a model.tflite, and such a model served, so that it can be compared with its original."""
