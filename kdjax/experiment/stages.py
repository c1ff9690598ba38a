"""The stages of an experiment: teacher, baseline, student, compare, and with `ceiling` one more."""

import time
from collections.abc import Callable, Mapping

import jax
import numpy as np
from jax.experimental import multihost_utils

from kdjax import registry, teacher_store
from kdjax.errors import KdjaxError, unknown
from kdjax.experiment import build, redraw, written
from kdjax.experiment.cohort import TRAINED
from kdjax.experiment.experiment import PUBLISHED, Experiment
from kdjax.experiment.stage_setup import seed_folder, setup
from kdjax.experiment.validate import check
from kdjax.experiment.workdir import agree, check_workdir, claim_workdir
from kdjax.input import splits
from kdjax.nn.layers import without_features
from kdjax.pretrained import safetensors_io
from kdjax.runtime import files, progress, signals, trust, watchdog, workdir_lock
from kdjax.runtime.config_tree import digest
from kdjax.training import quantize, tracking, trainer
from kdjax.training.setup import LoopConfig

STAGES = (*TRAINED, 'compare')


def run(experiment: Experiment, stages: tuple[str, ...] = STAGES) -> dict | None:
  """Runs those of the stages that are not finished.

  Returns:
    The results of 'compare', None without it.

  Raises:
    KdjaxError: for anything that the user can put right.
    kdjax.runtime.signals.Interrupted: after a signal to stop, with everything saved.
  """
  for stage in stages:
    if stage not in STAGES:
      raise unknown('stage', stage, STAGES)
  agree(experiment, *stages)
  with workdir_lock.held(experiment.workdir):
    check(experiment)
    claim_workdir(experiment)
    return _run(experiment, stages)


def _run(experiment, stages):
  config = experiment.config
  tracked = tracking.tracked(config['run']['track'], experiment.workdir, config['name'], config)
  watching = watchdog.watching(config['run']['stall'], ends=jax.process_count() > 1)
  with watching, tracked as tracker:
    results = _run_stages(experiment, stages, tracker)
    if results:
      tracker.results(results)
  return results


def _run_stages(experiment, stages, tracker):
  with signals.listening() as stopped:
    for stage in stages:
      if stopped():
        raise signals.Interrupted(f'stopped before {stage}; run the same command to go on.')
      if stage == 'compare':
        break
      if stage == 'ceiling' and not experiment.has_ceiling:
        if len(stages) < len(STAGES):
          progress.say('ceiling: needs --config.ceiling=True, and data.labels below 1')
        continue
      missing = {m.folder(stage): (n, m) for n, m in experiment.members.items() if not m.done(stage)}
      if not missing:
        progress.say(f'{stage}: done before')
      elif stage == 'student' and not experiment.done('teacher'):
        raise KdjaxError(f'{experiment.workdir} has no teacher for the student: run the teacher first.')
      members, n = list(missing.values()), experiment.config['run']['members_per_program']
      for i in range(0, len(members), n):
        train_stage(experiment, stage, dict(members[i : i + n]), stopped, tracker)
  if stopped():
    raise signals.Interrupted('stopped; run the same command to go on.')
  if 'compare' not in stages:
    return None
  from kdjax.evaluation import compare  # its plots and statistics take a second to import

  return compare.run(experiment)  # outside `listening`: it has nothing to save, a signal ends it at once


def train_stage(
  experiment: Experiment,
  stage: str,
  members: Mapping[str, Experiment] | None = None,
  stopped: Callable[[], bool] = lambda: False,
  tracker: tracking.Tracker = tracking.NONE,
) -> None:
  """Trains a stage, or loads the weights of `teacher.init`, and exports them.

  Args:
    experiment: the experiment, not a member of its cohort.
    stage: one of `TRAINED`.
    members: name -> the members to train; None for all.
    stopped: whether to save and stop, as in `trainer.train`.
    tracker: gets the metrics.

  Raises:
    KdjaxError, Interrupted: as `trainer.train` does.
  """
  config, members = experiment.config, members or experiment.members
  if stage == 'teacher':
    members = {'teacher': experiment}
  published = stage == 'teacher' and experiment.teacher_is_published
  if published:
    loaded = experiment.published()
    experiment.shared.pop(PUBLISHED)
    untrained = {'steps': 0, 'wall_time_s': 0.0, 'first_step_s': 0.0, 'update_s': None}
    trained = {'teacher': {'variables': jax.tree.map(lambda x: x[None], loaded), **untrained}}
    progress.say(f'{stage}: {_source(config["teacher"])}')
  else:
    how = LoopConfig.of(config['select'], config['run'])._replace(tracker=tracker)
    folder = next(iter(members.values())).folder(stage)
    if len(members) > 1:
      folder = experiment.workdir / 'cohort' / f'{stage}_{digest(sorted(members))}'
    runs = range(len(experiment.seeds(stage))) if redraw.apart(experiment.config, stage) else [None]
    trainings = [_train(experiment, stage, members, how, folder, i, stopped) for i in runs]
    trained = {name: redraw.joined([one[name] for one in trainings]) for name in members}
  if not jax.process_index():
    for name, member in members.items():
      _export(member, stage, trained[name].pop('variables', None))
    for name, member in members.items():  # after all exports, so that a kill between them loses none
      training_folder = '' if published else str(folder.relative_to(experiment.workdir))
      _write_summary(member, stage, trained[name] | {'members': len(members), 'training': training_folder})
  multihost_utils.sync_global_devices(f'exported {stage}')  # the other processes read these files


def _source(config) -> str:
  """Where a teacher that is not trained comes from, in words."""
  if config['outputs']:
    return f'its outputs, from {config["outputs"]}'
  name = config['model'].get('model')
  return f'{name}, as it is' if registry.is_object(name) else f'weights from {config["init"] or "its parts"}'


def _train(experiment, stage, members, how, folder, i, stopped):
  """The results of `trainer.train`, of seed i or for None of all seeds."""
  training, weights = setup(experiment, stage, members, i), experiment.config['teacher']['weights']
  quantization = {}
  folder = seed_folder(experiment, stage, i, folder)
  if i is not None:
    progress.say(f'{stage}: seed {i + 1} of {len(experiment.seeds(stage))}')
  if training.teacher and weights != 'float32':
    batch = training.source.take(np.arange(min(len(training.source), 256)))
    teacher = experiment.model('teacher'), experiment.one_teacher(i or 0)
    quantization = {'teacher_weights': quantize.change(*teacher, weights, batch)}
  if stage == 'student':
    sources = {m.config['teacher']['source'] for m in members.values()}
    if 'store' in sources and not teacher_store.finished(teacher_store.folder(experiment)):
      teacher_store.build(experiment, training)
    training = written.by_teacher(experiment, training)
    training = teacher_store.use_store(experiment, training, sources, folder)
  trained = trainer.train(training, how, folder, redraw.order(experiment.config, stage, i or 0), stopped)
  return {name: summary | quantization for name, summary in trained.items()}


def _export(experiment, stage, variables):
  """Writes the weights of each seed as safetensors."""
  folder = experiment.folder(stage)
  for i, seed in enumerate(experiment.seeds(stage) if variables else ()):
    variables_of_seed = jax.tree.map(lambda x, i=i: x[i], variables)
    safetensors_io.export(
      folder / f'seed_{seed}.safetensors', variables_of_seed, experiment.vocabulary_of(stage)
    )


def _write_summary(experiment, stage, trained):
  """Writes stage.json, which marks the stage as finished."""
  stage_config, folder = experiment.stage_config(stage), experiment.folder(stage)
  data = experiment.data.of(stage)
  files.write_json(
    folder / 'stage.json',
    {
      'stage': stage,
      'seeds': experiment.seeds(stage),
      **trained,
      'model': experiment.attributes(stage),
      'modules': trust.digests({'model': experiment.attributes(stage), 'config': experiment.config}),
      'fill': build.fill(data, experiment.task),
      'inputs': stage_config['inputs'],
      'classes': data.dataset.classes,
      'rate': data.dataset.rate,
      'ranges': data.ranges,
      'example': {k: (v.shape[1:], str(v.dtype)) for k, v in without_features(data.test.take([0])).items()},
      'finished': time.strftime('%Y-%m-%d %H:%M:%S %z'),
    },
  )


def store_command(experiment: Experiment, what: str) -> None:
  """The command `store`: 'build', 'verify' or 'info'.

  Raises:
    KdjaxError: if the teacher is not finished, or as `kdjax.teacher_store` does.
  """
  if what == 'info':
    teacher_store.info(teacher_store.folder(experiment))
    return
  check(experiment)
  training = setup(experiment, 'student')
  if training.teacher is None:
    raise KdjaxError("no student of this config uses the teacher's outputs: there is nothing to store.")
  if what == 'verify':
    teacher_store.verify(experiment, training)
    return
  agree(experiment, 'store build')
  with workdir_lock.held(experiment.workdir):
    claim_workdir(experiment)
    teacher_store.build(experiment, training)


def evaluate(experiment: Experiment, split: str) -> dict[str, dict[str, list[float]]]:
  """Evaluates every finished stage on a split: stage -> metric -> one value a seed.

  Raises:
    KdjaxError: if there is no such split, or no finished stage.
  """
  check_workdir(experiment)  # claims nothing: the folder may be another user's
  data, config, results = experiment.data, experiment.config, {}
  in_memory = {'train': data.train, 'validation': data.validation, **data.also}
  in_memory |= {config['data']['test']: data.test}
  source = in_memory.get(split)
  if source is None:
    source = splits.read(data.dataset, split, data.encode, config['data']['memory'])
  for name, member in experiment.members.items():
    for stage in (s for s in TRAINED if member.trained(s) and member.has_outputs(s)):
      apart = member.folder(stage) != experiment.folder(stage)
      label = f'{name}/{stage}' if apart else stage
      if label not in results:
        metrics = member.evaluator(stage)(member.variables(stage), source, f'{label}: {split}').metrics
        results[label] = {k: v.tolist() for k, v in metrics.items()}
  if not results:
    raise KdjaxError(f'{experiment.workdir} holds no finished stage: run one first.')
  return results
