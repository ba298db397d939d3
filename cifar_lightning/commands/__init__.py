"""One command of the command line a file, each with ``main(argv)``."""

COMMANDS = {
    "demo": ("demo", "train, test and predict on the built-in images, in about a minute"),
    "fit": ("fit", "train a classifier; resume with --ckpt_path last.ckpt"),
    "validate": ("evaluate", "measure a checkpoint on the validation images"),
    "test": ("evaluate", "measure a checkpoint on the test images, with figures and a report"),
    "bench": ("bench", "measure how fast a recipe trains and predicts, and where time goes"),
    "audit": ("audit", "look for duplicates, label errors, small classes and odd images"),
    "sweep": ("sweep", "search for better hyperparameters, with one process or many"),
    "leaderboard": ("leaderboard", "compare runs: mean ± sd over the seeds, time and size"),
    "recipes": ("recipes", "list the built-in recipes; recipes copy cnn writes one to edit"),
    "models": ("models", "list the built-in networks: options, size, recipes"),
    "predict": ("predict", "classify your own images with a checkpoint or an exported file"),
    "export": ("export", "write a checkpoint as ONNX or .pt2, verified"),
    "serve": ("serve", "a web page and an HTTP API for people's own images"),
    "schema": ("schema", "print the JSON schema of a recipe, for editors"),
    "completion": ("completion", "print a script that completes commands and options in bash or zsh"),
}
"""Each command: its module in ``cifar_lightning.commands``, whose ``main(argv)`` runs it, and one line of help."""
