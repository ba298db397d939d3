"""Training a network: the LightningModule, its optimizers and metrics, checkpoints, and a run's folder."""
