"""Classifying images with a checkpoint or an exported file."""
