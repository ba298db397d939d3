"""Serve a model with LitServe, for serving.py. Batching is as in LitServe's documentation."""

import base64
import sys
from typing import Any

import litserve
import numpy as np
from numpy.typing import NDArray

from cifar_lightning import Predictor


class API(litserve.LitAPI):  # type: ignore[misc]  # It is installed in a folder of its own.
    """Classifies {"image": an image file in base64} and returns the three most probable classes."""

    def setup(self, device: str) -> None:
        """Load the model."""
        self.predictor = Predictor(sys.argv[1], device="cpu")

    def decode_request(self, request: dict[str, str]) -> NDArray[np.uint8]:
        """Decode the image as ``serve`` does."""
        return self.predictor.decode(base64.b64decode(request["image"]))

    def batch(self, inputs: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
        """Stack images into one array."""
        return np.stack(inputs)

    def predict(self, x: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Compute probabilities."""
        return self.predictor.probabilities(x)

    def unbatch(self, output: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Split the array into rows."""
        return list(output)

    def encode_response(self, output: NDArray[np.float32]) -> dict[str, Any]:
        """Return the most probable classes."""
        best = output.argsort()[::-1][:3]
        return {"top": [{"label": self.predictor.classes[i], "probability": float(output[i])} for i in best]}


if __name__ == "__main__":
    server = litserve.LitServer(API(max_batch_size=64, batch_timeout=0.002), accelerator="cpu")
    server.run(host="127.0.0.1", port=int(sys.argv[2]), log_level="warning", generate_client_file=False)
