"""Experiment trackers: metrics.jsonl for W&B, MLflow, Trackio or TensorBoard, by their own libraries.

A tracker has its own thread, so that a slow disk or network never holds up a training; its first failure is
one line, and the rest of the run is not tracked. One run of a tracker is one workdir: a series is called
'<folder>/<name>', such as 'student/loss/kd', with '/seed0', '/seed1' … where a record has a value a seed.
"""

import contextlib
import json
import os
import queue
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np

from kdjax.runtime import files
from kdjax.runtime.config_tree import flat
from kdjax.runtime.packages import needed
from kdjax.runtime.progress import say

PROJECT = 'kdjax'
PACKAGES = {'wandb': 'wandb', 'mlflow': 'mlflow', 'trackio': 'trackio', 'tensorboard': 'tensorboardX'}
LAST_S = 60.0  # that the end of a run waits for what is not yet written


class Backend(Protocol):
  """One run of a tracker."""

  def log(self, folder: str, step: int, values: Mapping[str, float]) -> None:
    """Metrics of a training at a step; `folder` is the training's, below the workdir."""
    ...

  def results(self, values: Mapping[str, float]) -> None:
    """The scores of the comparison."""
    ...

  def close(self) -> None: ...


class Run(Protocol):
  """What a backend is made of: where it is, its name, and the recipe."""

  def __call__(self, workdir: Path, name: str, config: Mapping) -> Backend: ...


def check(kind: str) -> Any:
  """The library of a tracker, None for ''.

  Raises:
    KdjaxError: if it is not installed.
  """
  if not kind:
    return None
  return needed(PACKAGES[kind], f'run.track={kind!r}', f'pip install {PACKAGES[kind]}')


def run_id(workdir: Path, kind: str, make: Callable[[], str]) -> str:
  """The id of the workdir's run, kept in tracking.json, so that a resumed training goes on in it."""
  path = workdir / 'tracking.json'
  known = json.loads(path.read_text(encoding='utf-8')) if path.exists() else {}
  if kind not in known:
    known[kind] = make()
    files.write_json(path, known)
  return known[kind]


class _Wandb:
  """Weights & Biases; offline unless WANDB_MODE says otherwise."""

  def __init__(self, workdir, name, config):
    wandb = check('wandb')
    self.run = wandb.init(
      project=os.environ.get('WANDB_PROJECT', PROJECT),
      id=run_id(workdir, 'wandb', lambda: uuid.uuid4().hex[:12]),
      name=name,
      config=config,
      dir=str(workdir),
      resume='allow',
      mode=os.environ.get('WANDB_MODE', 'offline'),
    )
    self.known = set()

  def log(self, folder, step, values):
    at = f'{folder}/step'  # the steps of a W&B run only grow, those of stages begin anew
    if folder not in self.known:
      self.known.add(folder)
      self.run.define_metric(f'{folder}/*', step_metric=at)
    self.run.log({at: step, **{f'{folder}/{k}': v for k, v in values.items()}})

  def results(self, values):
    self.run.summary.update(dict(values))

  def close(self):
    self.run.finish()


class _Mlflow:
  """MLflow; in a database in the workdir unless MLFLOW_TRACKING_URI says otherwise."""

  def __init__(self, workdir, name, config):
    mlflow = check('mlflow')
    place = os.environ.get('MLFLOW_TRACKING_URI') or f'sqlite:///{workdir.resolve() / "mlflow.db"}'
    self.client = mlflow.MlflowClient(tracking_uri=place)
    self.id = run_id(workdir, 'mlflow', lambda: self._begin(name, config))

  def _begin(self, name, config):
    existing = self.client.get_experiment_by_name(PROJECT)
    experiment = existing.experiment_id if existing else self.client.create_experiment(PROJECT)
    begun = self.client.create_run(experiment, run_name=name).info.run_id
    for key, value in flat(config).items():
      self.client.log_param(begun, key, str(value)[:500])
    return begun

  def log(self, folder, step, values):
    for key, value in values.items():
      self.client.log_metric(self.id, f'{folder}/{key}', value, step=step)

  def results(self, values):
    self.log('results', 0, {k.removeprefix('results/'): v for k, v in values.items()})

  def close(self):
    self.client.set_terminated(self.id)


class _Trackio:
  """Trackio; on this machine unless TRACKIO_SPACE_ID says otherwise."""

  def __init__(self, workdir, name, config):
    name = f'{name}-{run_id(workdir, "trackio", lambda: uuid.uuid4().hex[:8])}'
    trackio = check('trackio')
    self.run = trackio.init(project=PROJECT, name=name, config=dict(config), resume='allow', embed=False)

  def log(self, folder, step, values):
    self.run.log({f'{folder}/{k}': v for k, v in values.items()}, step=step)

  def results(self, values):
    self.run.log(dict(values))

  def close(self):
    self.run.finish()


class _TensorBoard:
  """TensorBoard's files, in the folder `tensorboard` of each training, so that one chart has all stages."""

  def __init__(self, workdir, name, config):
    self.make, self.workdir, self.writers = check('tensorboard').SummaryWriter, workdir, {}
    self.config = json.dumps(config, indent=2, default=str)

  def _writer(self, folder, step):
    if folder not in self.writers:
      path = self.workdir / folder / 'tensorboard'
      self.writers[folder] = self.make(str(path), purge_step=step)
    return self.writers[folder]

  def log(self, folder, step, values):
    for key, value in values.items():
      self._writer(folder, step).add_scalar(key, value, step)

  def results(self, values):
    writer = self._writer('', 0)
    writer.add_text('config', f'```\n{self.config}\n```', 0)
    for key, value in values.items():
      writer.add_scalar(key, value, 0)

  def close(self):
    for writer in self.writers.values():
      writer.close()


BACKENDS: dict[str, Run] = {
  'wandb': _Wandb,
  'mlflow': _Mlflow,
  'trackio': _Trackio,
  'tensorboard': _TensorBoard,
}


class Tracker:
  """Hands records to a backend in a thread of its own; without a backend it does nothing."""

  def __init__(self, kind: str = '', workdir: Path = Path(), name: str = '', config: Mapping | None = None):
    self.kind, self.workdir, self.failed = kind, workdir, False
    self.waiting: queue.SimpleQueue = queue.SimpleQueue()
    self.thread = None
    if kind:
      self.thread = threading.Thread(target=self._work, args=(name, config or {}), daemon=True)
      self.thread.start()

  def log(self, folder: Path, step: int, record: Mapping) -> None:
    """A record of metrics.jsonl; a list has one value a seed."""
    if self.thread:
      self.waiting.put(('log', str(folder.relative_to(self.workdir)), step, values_of(record)))

  def results(self, results: Mapping) -> None:
    """The content of results.json, or of a cohort of ranking.json."""
    if self.thread:
      self.waiting.put(('results', scores(results)))

  def close(self) -> None:
    """Waits until all is written, for a minute at most."""
    if self.thread:
      self.waiting.put(None)
      self.thread.join(LAST_S)
      if self.thread.is_alive():
        self._warn(f'what is left was not written in {LAST_S:.0f} s')
      self.thread = None

  def _work(self, name, config):
    try:
      backend = BACKENDS[self.kind](self.workdir, name, config)
      while (call := self.waiting.get()) is not None:
        getattr(backend, call[0])(*call[1:])
      backend.close()
    except Exception as e:
      self._warn(f'{type(e).__name__}: {e}')

  def _warn(self, why):
    if not self.failed:
      self.failed = True
      say(
        f'warning: {self.kind} stopped, and the training goes on without it ({" ".join(why.split())[:300]})'
      )


NONE = Tracker()


@contextlib.contextmanager
def tracked(kind: str, workdir: Path, name: str, config: Mapping) -> Iterator[Tracker]:
  """The tracker of a run, on process 0 alone."""
  tracker = Tracker('' if jax.process_index() else kind, workdir, name, config)
  try:
    yield tracker
  finally:
    tracker.close()


def values_of(record: Mapping) -> dict[str, float]:
  """The numbers of a record by the names of their series: of a list 'loss/kd/seed0', 'loss/kd/seed1' …"""
  values = {}
  for key, value in record.items():
    array = np.asarray(value, np.float64)
    each = {key: array} if array.ndim == 0 else {f'{key}/seed{i}': x for i, x in enumerate(array)}
    values |= {k: float(v) for k, v in each.items()}
  return values


def scores(results: Mapping) -> dict[str, float]:
  """The numbers of a comparison, or of a ranking: 'results/student/mean', 'results/p_value' …"""
  of_members = {row['name']: row for row in results.get('rows', ())}
  tree = {**results['stages'], **of_members, '': results}
  return {
    f'results/{name}/{key}' if name else f'results/{key}': float(value)
    for name, entries in tree.items()
    for key, value in entries.items()
    if isinstance(value, int | float) and not isinstance(value, bool)
  }
