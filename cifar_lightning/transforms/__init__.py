"""Tensor code on batches of images, and the decoding of files; neither knows of Lightning."""
