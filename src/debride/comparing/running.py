"""The loop of a comparison: networks are trained, cells worked on, tables made as results come."""

from __future__ import annotations

import contextlib
import fnmatch
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from debride import screens
from debride.comparing.cells import is_trained, read_cell, run, train
from debride.comparing.grid import Cell, Study, cells_of, read_grid, within
from debride.comparing.showing import show_lines
from debride.comparing.summary import removed_at, rows_of
from debride.comparing.tables import write_tables
from debride.comparing.workers import Workers, processes, ray_cluster, this_process
from debride.data.registry import opener_of
from debride.errors import DebrideError
from debride.models.registry import UnknownNetworkError
from debride.models.spec import ModelSpec, build
from debride.workflow import check_choices

if TYPE_CHECKING:
    from debride.settings import CompareSettings

POINT = 0.01
"""The loss at which criteria are compared."""


def compare(settings: CompareSettings) -> None:
    """Work on all cells of a grid that are not there yet, and make tables and figures of all."""
    grid = read_grid(settings.grid)
    _check_place(settings)
    cells = cells_of(grid, settings.out, device=settings.device, trust=settings.trust)
    wanted = [c for c in cells if fnmatch.fnmatch(c.name, settings.only or "*")]
    if not wanted:
        raise DebrideError(
            f"no cell fits --only '{settings.only}': they are called as '{cells[0].name}' is"
        )
    for choices in {cell.criterion: cell for cell in cells}.values():
        with within(f"the criterion '{choices.criterion}'"):
            check_choices(choices.prune)
    done = {cell.name: found for cell in cells if (found := read_cell(cell)) is not None}
    left = [cell for cell in wanted if cell.name not in done]
    screens.say("cells", f"{len(cells)}; {len(done)} done, {0 if settings.collect else len(left)} "
                "to work on")  # fmt: skip
    failed: list[str] = []
    if left and not settings.collect:
        check_there(left)
        with _workers(settings) as workers:
            for cell, found in work(left, workers, failed.append):
                done[cell.name] = found
                write_tables(settings.out, [done[c.name] for c in cells if c.name in done])
    if not done and not failed:
        raise DebrideError("no cell is done yet: leave --collect out")
    if done:
        table = write_tables(settings.out, [done[c.name] for c in cells if c.name in done])
        show_lines(table)
        screens.say("tables", str(settings.out / "comparison.md"))
    if failed:
        raise DebrideError(
            f"{screens.plural(len(failed), 'piece')} of work failed ({', '.join(failed)}): mend "
            "what is said of each above and run the same command again; what is done is kept"
        )


def check_there(cells: Iterable[Cell]) -> None:
    """Refuse images and networks that are not there, before there is hours of work on others.

    Raises
    ------
    DebrideError
        Naming the entry of the grid.
    """
    for study, cell in {cell.study.name: (cell.study, cell) for cell in cells}.values():
        with within(f"the data '{study.data}'"):
            opener_of(cell.prune.data)
        if study.train is not None and not is_trained(study):
            with within(f"the network '{study.network}'"):
                _check_name(study.train.model)


def _check_name(model: str) -> None:
    if ":" not in model or "/" in model:
        raise DebrideError(
            f"no folder '{model}': give 'model' one that debride train wrote, or the name of a "
            "network such as torchvision:resnet18"
        )
    if model.partition(":")[0] in ("torchvision", "timm"):
        spec = ModelSpec(source=model, outputs=2, channels=3, spatial=(64, 64))
        try:
            build(spec, device="meta")
        except UnknownNetworkError:
            raise
        except DebrideError:  # of this size: its training says whether it goes with the images
            return


@dataclass(frozen=True)
class _Task:
    """A network to train, or a cell to work on."""

    study: Study
    cell: Cell | None

    @property
    def name(self) -> str:
        return self.study.name if self.cell is None else self.cell.name


def work(
    cells: list[Cell], workers: Workers, failed: Callable[[str], None]
) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """Yield each cell with its result as it is done; networks are trained before their cells.

    Parameters
    ----------
    failed : callable
        Called with the name of each network or cell that could not be made.
    """
    begun = time.monotonic()
    queue: deque[_Task] = deque()
    untrained: set[str] = set()
    for cell in cells:
        study = cell.study
        if study.name not in untrained and not is_trained(study):
            untrained.add(study.name)
            queue.append(_Task(study, None))
        queue.append(_Task(study, cell))
    running: dict[Future[Any], _Task] = {}
    total, finished = len(cells), 0
    while queue or running:
        while len(running) < workers.width and (task := _next(queue, untrained)) is not None:
            running[_begun(workers, task)] = task
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            task = running.pop(future)
            error = future.exception()
            if error is not None:
                screens.warn(f"{task.name}: {_said(error)}")
                failed(task.name)
                if task.cell is None:  # none of its cells can be made
                    lost = [other for other in queue if other.study == task.study]
                    queue = deque(other for other in queue if other.study != task.study)
                    total -= len(lost)
            elif task.cell is None:
                untrained.discard(task.study.name)
                screens.say("trained", task.name)
            else:
                finished += 1
                _tell(task.cell, future.result(), finished, total, time.monotonic() - begun)
                yield task.cell, future.result()


def _begun(workers: Workers, task: _Task) -> Future[Any]:
    try:
        if task.cell is None:
            return workers.submit(train, task.study)
        return workers.submit(run, task.cell)
    except BrokenExecutor as error:  # a process was killed, perhaps for memory
        lost: Future[Any] = Future()
        lost.set_exception(error)
        return lost


def _next(queue: deque[_Task], untrained: set[str]) -> _Task | None:
    """Take the first task whose network is there, or that trains one."""
    for task in queue:
        if task.cell is None or task.study.name not in untrained:
            queue.remove(task)
            return task
    return None


def _tell(cell: Cell, found: dict[str, Any], done: int, total: int, seconds: float) -> None:
    rows = [row for row in rows_of([found]) if row["stage"] == "repaired"]
    best = removed_at(rows, POINT)
    kept = f"{best['macs_removed']:.0%} of MACs removed" if best else "nothing can be removed"
    left = seconds / done * (total - done)
    more = f"; about {screens.duration(left)} left" if total > done else ""
    screens.say(f"{done} of {total}", f"{cell.name}: {kept} at one point of validation{more}")


def _said(error: BaseException) -> str:
    if isinstance(error, DebrideError):
        return str(error)
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no more is known'}"


def _check_place(settings: CompareSettings) -> None:
    out = settings.out
    if out.exists() and not out.is_dir():
        raise DebrideError(f"'{out}' is a file: give --out a folder")
    if out.is_dir() and any(out.iterdir()) and not any((out / n).is_dir() for n in _OWN):
        raise DebrideError(
            f"'{out}' holds something that is not Debride's: give --out a new folder"
        )


_OWN = ("cells", "bases", "logs")


@contextlib.contextmanager
def _workers(settings: CompareSettings) -> Iterator[Workers]:
    if settings.ray:
        chosen = ray_cluster(settings.ray_address)
    elif settings.workers > 1:
        chosen = processes(settings.workers, settings.out / "logs")
    else:
        chosen = this_process()
    with chosen as workers:
        yield workers
