"""The search: candidates are proposed, trained for a short while, and put into an Optuna study that can be resumed."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection

from nas.costs import TRAINED
from nas.crew import helpers
from nas.dask_client import connected
from nas.place import Place
from nas.space import SearchSpace
from nas.stopping import Stopper
from nas.storage import STUDY, open_place
from nas.task import NOTHING_TRAINED, OBJECTIVES, SUPERNET, Task
from nas.trial import Progress
from nas.worker import work
from vit.errors import EarlierWork, InputError, require_int

if TYPE_CHECKING:
    import torch
    from optuna import Study

    from fifo_sim import Hardware
    from nas.supernet import Supernet
    from vit.image_set import DataSplits
    from vit.recipe import Recipe

SETTINGS = "settings"  # user attribute of the study: what it was made with


def search(
    space: SearchSpace,
    data: DataSplits,
    hardware: Hardware | str | Path | None = None,
    objectives: Sequence[str] = OBJECTIVES,
    constraints: Sequence[str] = (),
    trials: int = 32,
    storage: str | Path | None = "search.journal",
    seed: int = 0,
    recipe: Recipe | None = None,
    sampler: str | Callable[[int], BaseSampler] = "cost-aware",
    device: str | torch.device = "cpu",
    stopping: Stopper | None = None,
    supernet: Supernet | None = None,
    workers: int = 1,
    dask: str | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Study:
    """Search the space until `trials` trials of the study have ended, and return it.

    Accuracy is that on the validation images after training by `recipe`, or with the weights of `supernet`; the test
    images are not touched. Every other objective is computed from the candidate. Candidates that break a rule of the
    space or a constraint, or whose pipeline deadlocks, are never trained; a candidate that was trained before is not
    trained again.

    Killed anywhere and called again with the same arguments, it goes on with the same candidates and ends with the
    same values as if it had not been stopped. Several processes may call it with the same storage and share the work;
    the trial of one that dies is tried again by the others. More `trials` later continue the same study.

    Args:
        space: what to choose from; its image_size, in_channels and num_classes must be those of the data.
        hardware: a fifo_sim.Hardware, a preset or a TOML file; needed for cycles, sram_kib, energy_pj and bytes.
        objectives: out of accuracy (maximised), params, macs, cycles, sram_kib, energy_pj, bytes (minimised).
        constraints: bounds on costs, such as "cycles <= 20000".
        trials: trials the study shall have; those that `stopping` ended early count, as pruned ones without values.
        storage: the path of a journal file (made if absent), postgresql://USER@HOST/DATABASE, grpc://HOST:PORT of
            Optuna's proxy, or None for memory.
        seed: of the sampler and of every training.
        recipe: how a candidate is trained; None is Recipe.for_data(data.name, epochs=8, seed=seed). Left out with a
            supernet.
        sampler: "cost-aware", "tpe", "nsga2" or "random", or a function from a seed to an Optuna sampler. It is made
            anew for every trial, so that a resumed study draws what it would have drawn.
        device: where to train.
        stopping: gives up trainings that lead nowhere, as nas.FrontStopper does; None trains all to their end.
        supernet: of this space, as `train_supernet` gives it: a candidate's accuracy is then that of its part of the
            supernet, and nothing is trained.
        workers: processes on this machine, this one included; more than one need a storage.
        dask: address of the scheduler of a Dask cluster, tcp://HOST:PORT: its workers train, one trial at a time each.
        progress: called after every epoch and every trial of this process.

    Returns:
        The optuna.Study, multi-objective if there are several, with `metric_names` set to the objectives.

    Raises:
        InputError: an argument of another kind; an unknown objective, constraint or sampler; data of another shape; no
            feasible candidate (told with what each constraint refuses); a storage that cannot be used, or holds a study
            of other settings (the difference is shown).
    """
    task = Task(space, data, hardware, objectives, constraints, seed, recipe, sampler, device, supernet)
    require_int("trials", trials)
    rule = (getattr(stopping, name, None) for name in ("stops", "settings"))
    if stopping is not None and (isinstance(stopping, type) or not all(map(callable, rule))):
        raise InputError("stopping", stopping, "a nas.Stopper or None", "such as nas.VolumeStopper()")
    if progress is not None and not callable(progress):
        raise InputError("progress", progress, "a function of a nas.Progress, or None")
    for name, value in (("stopping", stopping), ("supernet", supernet)):
        if value is not None and not set(TRAINED) & set(objectives):
            raise InputError(name, type(value).__name__, "given only where accuracy is an objective")
    if supernet is not None and (stopping is not None or dask is not None):
        raise InputError("supernet", type(supernet).__name__, "left out with stopping and with dask", NOTHING_TRAINED)
    if require_int("workers", workers) > 1 and storage is None:
        raise InputError("workers", workers, "1 without a storage", "a study in memory cannot be shared")
    if workers > 1 and dask is not None:
        raise InputError("workers", workers, "1 with dask", "the cluster has its own")
    same: dict[str, Any] = {"space": space, "hardware": hardware, "objectives": objectives, "constraints": constraints}
    same |= {"trials": trials, "storage": storage, "seed": seed, "recipe": recipe, "sampler": sampler}
    same |= {"device": device, "stopping": stopping, "supernet": supernet}
    with nullcontext() if dask is None else connected(dask) as cluster:  # first: without it nothing is begun
        place = open_place(storage)
        try:
            study = _open_study(task, place, {"stopping": None if stopping is None else stopping.settings()})
            if cluster is not None:
                from nas.dask_cluster import work_on_dask

                work_on_dask(cluster, study, task, place, trials, stopping, progress)
            else:
                with helpers(workers - 1, search, data, same) if workers > 1 else nullcontext():
                    work(study, task, place, trials, stopping, progress)
        except place.lost as error:
            hint = f"what has ended is kept, and the same call goes on: {error}"
            raise InputError("storage", place.name, "a server that stays within reach", hint) from error
        finally:
            place.close()
    return study


def space_of(study: Study) -> SearchSpace:
    """The space of a study that `search` made."""
    settings = study.user_attrs.get(SETTINGS)
    if not isinstance(settings, Mapping):
        raise InputError("study", study.study_name, "a study that tilevit's search made")
    return SearchSpace.from_dict(settings["space"])


def inherits(study: Study) -> bool:
    """Whether the accuracies of a study are those of parts of a supernet, and not of networks trained by themselves."""
    return bool(study.user_attrs.get(SETTINGS, {}).get(SUPERNET))


def _open_study(task: Task, place: Place, also: Mapping[str, Any]) -> Study:
    opened, settings = place.storage, {**task.settings(), **also}
    directions = [StudyDirection.MAXIMIZE if name in TRAINED else StudyDirection.MINIMIZE for name in task.objectives]
    with place.turn(), _quiet():
        names = [summary.study_name for summary in optuna.get_all_study_summaries(opened, include_best_trial=False)]
        if STUDY not in names:
            study = optuna.create_study(storage=opened, study_name=STUDY, directions=directions)
            study.set_metric_names(list(task.objectives))
            study.set_user_attr(SETTINGS, settings)
            return study
        study = optuna.load_study(storage=opened, study_name=STUDY)
        there = study.user_attrs.get(SETTINGS)
        if there is None:  # killed between its first two lines
            study.set_metric_names(list(task.objectives))
            study.set_user_attr(SETTINGS, settings)
            return study
    differences = list(_differences(there, json.loads(json.dumps(settings))))
    if differences:
        raise EarlierWork("storage", place.name, "a study of the same settings, or a new place", "; ".join(differences))
    return study


def _differences(there: Any, here: Any, name: str = "") -> Iterator[str]:
    """'seed is 0 there and 1 here' for everything that differs."""
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        for key in {**there, **here}:
            yield from _differences(there.get(key), here.get(key), f"{name}.{key}" if name else str(key))
    elif there != here:
        yield f"{name} is {json.dumps(there)} there and {json.dumps(here)} here"


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Optuna's notes on new studies, and its warning that metric names are experimental."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(level)
