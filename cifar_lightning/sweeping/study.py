"""The study in which the workers of a search meet: its storage, sampler and pruner, and which of its trials count."""

import contextlib
import json
import re
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.exceptions import DuplicatedStudyError, ExperimentalWarning, StorageInternalError
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage, GrpcStorageProxy, RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from cifar_lightning.errors import UsageError, did_you_mean
from cifar_lightning.sweeping.space import Sweep

MAX_RETRIES = 3
"""How often a trial is started again whose worker died. The trial itself may be what kills its workers."""

MACHINE_OPTIONS = ("data.root", "data.url", "trainer.accelerator", "trainer.devices", "trainer.default_root_dir")
"""Options that may differ between the workers of a study: where, and on what, they train."""

STORAGE = "study.db"
"""The storage in a study's folder, unless ``Sweep.storage`` names another."""

EXCESS_TRIAL = "surplus"
"""User attribute of a trial that does not count: two workers asked for the last trial at the same moment."""


@contextlib.contextmanager
def explained_storage_errors() -> Iterator[None]:
    """Silence Optuna's log messages, and turn errors of the storage into a ``UsageError``."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # heartbeats and retries are experimental in Optuna 5
        try:
            yield
        except (SQLAlchemyError, StorageInternalError) as error:
            reason = str(error.__cause__ or error).splitlines()[0]
            raise UsageError(f"the storage can't be used: {reason}") from error


def open_study(sweep: Sweep, recipe: Mapping[str, Any], folder: Path) -> tuple[optuna.Study, bool]:
    """Create the study of a search, or join it.

    Args:
        sweep: The search.
        recipe: The content of its base recipe.
        folder: The study's folder, where the storage is by default.

    Returns:
        The study, and whether it was created.

    Raises:
        UsageError: If the study exists, but its trials can't be compared with those of this search.
    """
    storage = open_storage(sweep, folder)
    try:
        direction = StudyDirection.MAXIMIZE if sweep.maximize else StudyDirection.MINIMIZE
        study = optuna.create_study(storage=storage, study_name=sweep.study_name, direction=direction)
        study.set_user_attr("terms", json.dumps(_terms(sweep, recipe), sort_keys=True))
        return study, True
    except DuplicatedStudyError:
        return _join_study(sweep, recipe, storage), False


def find_study(sweep: Sweep, recipe: Mapping[str, Any], folder: Path) -> optuna.Study | None:
    """Return the study of a search if it has been started.

    Args:
        sweep: The search.
        recipe: The content of its base recipe.
        folder: The study's folder, where the storage is by default.

    Raises:
        UsageError: If the study exists, but its trials can't be compared with those of this search.
    """
    if sweep.storage is None and not (folder / STORAGE).is_file():
        return None
    try:
        return _join_study(sweep, recipe, open_storage(sweep, folder))
    except KeyError:
        return None


def _join_study(sweep: Sweep, recipe: Mapping[str, Any], storage: BaseStorage) -> optuna.Study:
    study = optuna.load_study(study_name=sweep.study_name, storage=storage)
    terms = _terms(sweep, recipe)
    before = json.loads(study.user_attrs.get("terms", json.dumps(terms)))
    if changed := [name for name, value in terms.items() if json.loads(json.dumps(value)) != before.get(name, 0)]:
        raise UsageError(
            f"the study {sweep.study_name} exists with a different {' and '.join(changed)}, so its trials can't be "
            "compared with new ones. Name a new study with --study, or restore what was changed."
        )
    return study


def _terms(sweep: Sweep, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return what must be the same for the trials of two workers to be comparable."""
    overrides = {key: value for key, value in sweep.overrides.items() if key not in MACHINE_OPTIONS}
    return {
        "base": recipe,
        "overrides": overrides,
        "space": sweep.space,
        "monitor": sweep.monitor,
        "folds": sweep.folds,
    }


def open_storage(sweep: Sweep, folder: Path) -> BaseStorage:
    """Open the storage of a search; by default, study.db in the study's folder.

    Raises:
        UsageError: If no storage proxy answers, or a database driver is missing.
    """
    url = sweep.storage
    if url and url.startswith("grpc://"):
        host, _, port = url.removeprefix("grpc://").partition(":")
        proxy = GrpcStorageProxy(host=host, port=int(port or 13000))
        try:
            proxy.wait_server_ready(timeout=20)
        except Exception as error:  # an exception class of grpc, which is an optional dependency of Optuna
            raise UsageError(f"no storage proxy of Optuna answers at {url}.") from error
        return proxy
    if url is None:
        folder.mkdir(parents=True, exist_ok=True)
        url = f"sqlite:///{folder / STORAGE}"
    options: dict[str, Any] = {"pool_pre_ping": True}
    if url.startswith("sqlite"):
        # A pool would keep the file open, which Python 3.13 warns about, and Windows couldn't delete it.
        options = {"connect_args": {"timeout": 60}, "poolclass": NullPool}
    for attempt in range(10):
        try:
            return RDBStorage(
                url,
                engine_kwargs=options,
                heartbeat_interval=sweep.heartbeat,
                grace_period=3 * sweep.heartbeat,
                heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(MAX_RETRIES),
            )
        except ImportError as error:
            raise UsageError(
                f"the storage needs a driver: pip install 'cifar-lightning[postgresql]' for PostgreSQL ({error})."
            ) from error
        except SQLAlchemyError as error:
            # Two workers that start at the same moment both create the tables; Optuna does not lock them.
            if attempt == 9 or not re.search("already exists|duplicate key|UNIQUE constraint", str(error)):
                raise
            time.sleep(0.5)
    raise AssertionError


def create_sampler(sweep: Sweep, seed: int | None) -> BaseSampler:
    """Build the sampler of a search.

    Args:
        sweep: The search.
        seed: Its seed, unless ``sampler_options`` has one; None for a random one.

    Raises:
        UsageError: If Optuna has no such sampler, or it does not take its options.
    """
    sampler: BaseSampler = _create("sampler", optuna.samplers, sweep.sampler, sweep.sampler_options, seed)
    return sampler


def create_pruner(sweep: Sweep) -> BasePruner:
    """Build the pruner of a search.

    Raises:
        UsageError: If Optuna has no such pruner, or it does not take its options.
    """
    pruner: BasePruner = _create("pruner", optuna.pruners, sweep.pruner, sweep.pruner_options)
    return pruner


def _create(
    kind: Literal["sampler", "pruner"], module: Any, name: str, given: Mapping[str, Any], seed: int | None = None
) -> Any:
    known = [n for n in module.__all__ if n.endswith(kind.capitalize()) and not n.startswith("Base")]
    if name not in known:
        near = did_you_mean(name, known) or did_you_mean(f"{name}{kind}".title(), known)
        raise UsageError(f"unknown {kind} {name}.{near} Optuna has {', '.join(known)}.")
    create = getattr(module, name)
    options = dict(given)
    if "seed" in signature(create).parameters:
        options.setdefault("seed", seed)
    try:
        return create(**options)
    except (TypeError, ValueError, ImportError) as error:
        raise UsageError(
            f"{kind} {name} does not take {kind}_options {options}: {error}. Change them, or leave them out: "
            f"--{kind}_options '{{}}'."
        ) from error


def counted_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that count towards ``Sweep.trials``: of those that were started again, the newest."""
    trials = study.get_trials(deepcopy=False)
    retried = {retried_trial(trial) for trial in trials}
    return [t for t in trials if t.number not in retried and EXCESS_TRIAL not in t.user_attrs]


def retried_trial(trial: FrozenTrial) -> int | None:
    """Return the number of the trial that this one repeats because its worker died, or None."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        history = RetryHeartbeatStaleTrialCallback.retry_history(trial)
    return history[-1] if history else None


def count_finished(trials: Sequence[FrozenTrial]) -> int:
    """Count the trials that are complete, pruned or failed."""
    return sum(trial.state.is_finished() for trial in trials)


def find_best(study: optuna.Study) -> FrozenTrial | None:
    """Return the complete trial with the best value, or None if no trial is complete."""
    complete = [trial for trial in counted_trials(study) if trial.state == TrialState.COMPLETE]
    choose = max if study.direction == StudyDirection.MAXIMIZE else min
    return choose(complete, key=lambda trial: trial.value or 0.0, default=None)
