"""A search from its checks to its results."""

from cifar_lightning.errors import UsageError
from cifar_lightning.io.config import read_config
from cifar_lightning.sweeping.results import SearchResult, write_results
from cifar_lightning.sweeping.space import Check, Sweep, check_space
from cifar_lightning.sweeping.study import (
    count_finished,
    counted_trials,
    create_pruner,
    create_sampler,
    explained_storage_errors,
    open_study,
)
from cifar_lightning.sweeping.worker import Search, Train, run_workers


def search(sweep: Sweep, check: Check, train: Train, *, verbose: bool = False) -> SearchResult:
    """Search for better hyperparameters: start a study, or resume or join it, and train its trials.

    Everything is checked, and the data are downloaded, before the first trial starts.

    Args:
        sweep: The search.
        check: Builds a training, to check its options, such as ``commands.sweep.check_training``.
        train: Trains a trial, such as ``commands.sweep.train_trial``. With several workers it must be a function of a
            module, which their processes import by name.
        verbose: Whether to print a line for each trial.

    Returns:
        The study and its best trial. If Ctrl+C interrupted the search, ``interrupted`` is true: call this again to
        resume.

    Raises:
        UsageError: If an option is wrong, the storage can't be used, or all workers died.
    """
    with explained_storage_errors():
        plan = _prepare(sweep, check, train, verbose)
        study, is_new = open_study(sweep, plan.recipe, plan.folder)
        plan.log(
            f"study {study.study_name}: {count_finished(counted_trials(study))} of {sweep.trials} trials done, "
            f"{len(plan.space)} options searched, {sweep.sampler}, {sweep.pruner}; {plan.folder}"
        )
        result = SearchResult(sweep, study, plan.folder)
        try:
            run_workers(plan, study, is_new)
        except KeyboardInterrupt:
            result.interrupted = True
            return result
        if result.finished < max(sweep.trials, len(result.trials)):
            raise UsageError(f"no worker is left; {result.how_to_resume}")
        write_results(result, plan.recipe)
        return result


def _prepare(sweep: Sweep, check: Check, train: Train, verbose: bool) -> Search:
    """Check a sweep and download its data. The training that was built for this is not kept in memory."""
    space, training = check_space(sweep, check)
    create_sampler(sweep, sweep.seed)
    create_pruner(sweep)
    training.data.prepare_data()
    recipe, _ = read_config(sweep.recipe)
    return Search(sweep, recipe, space, sweep.find_folder(recipe), train, verbose)
