"""Training a network: the LightningModule, its optimisers and metrics, checkpoints, and a run's folder."""
