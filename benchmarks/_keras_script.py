"""The TensorFlow tutorial's CNN, https://www.tensorflow.org/tutorials/images/cnn; run by keras_tutorial.py."""

import argparse
import json

import keras
import numpy as np
from keras import layers

parser = argparse.ArgumentParser()
parser.add_argument("images")
parser.add_argument("--epochs", type=int, default=10)
parser.add_argument("--seed", type=int, default=0)
options = parser.parse_args()
keras.utils.set_random_seed(options.seed)

with np.load(options.images) as file:
    images = {split: file[f"{split}_images"].astype("float32") / 255 for split in ("train", "val", "test")}
    labels = {split: file[f"{split}_labels"] for split in ("train", "val", "test")}

model = keras.Sequential(
    [
        layers.Input((32, 32, 3)),
        layers.Conv2D(32, 3, activation="relu"),
        layers.MaxPooling2D(),
        layers.Conv2D(64, 3, activation="relu"),
        layers.MaxPooling2D(),
        layers.Conv2D(64, 3, activation="relu"),
        layers.Flatten(),
        layers.Dense(64, activation="relu"),
        layers.Dense(10),
    ]
)
model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
model.fit(
    images["train"],
    labels["train"],
    batch_size=32,
    epochs=options.epochs,
    validation_data=(images["val"], labels["val"]),
    verbose=2,
)
loss, accuracy = model.evaluate(images["test"], labels["test"], verbose=2)
print(json.dumps({"loss": loss, "accuracy": accuracy}))
