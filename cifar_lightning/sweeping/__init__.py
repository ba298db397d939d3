"""Hyperparameter search with Optuna: many short trainings around one recipe, by any number of processes and machines.

``search.search`` runs a ``space.Sweep``. A study (``study``) is where its workers (``worker``) meet; ``results`` and
``figures`` turn it into files. The functions that train are handed in, since this folder is below the commands.
"""

from cifar_lightning.errors import UsageError

try:
    import optuna  # noqa: F401
    import sqlalchemy  # noqa: F401
except ModuleNotFoundError as error:
    raise UsageError(f"sweep needs {error.name}: pip install 'cifar-lightning[sweep]'") from error
