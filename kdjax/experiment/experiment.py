"""An experiment: a config and a workdir, with the data, models and stages that follow from them."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np

from kdjax import pretrained, settings
from kdjax.errors import KdjaxError, explained
from kdjax.evaluation import generation_metrics
from kdjax.experiment import build, features, initial_weights, load
from kdjax.experiment.cohort import member_config
from kdjax.experiment.few_labels import few_labels
from kdjax.input import pipeline, splits, tokenizer
from kdjax.input.encode import known_labels
from kdjax.pretrained import safetensors_io
from kdjax.pretrained.initialize import complete
from kdjax.runtime.config_tree import check_paths, digest
from kdjax.runtime.files import NUMBER, read_json
from kdjax.runtime.progress import say
from kdjax.teacher_store import precomputed
from kdjax.training import finite, sharding, streams
from kdjax.training.evaluate import make_evaluate
from kdjax.types import Model

PUBLISHED = ('published',)  # key in `shared` of the weights of `teacher.init`, until these are exported
STAGE = {'stage': str, 'seeds': [int], 'steps': int, 'wall_time_s': NUMBER, 'failed_at?': int}
STAGE |= {'model': {'model': str}, 'update_s': (*NUMBER, type(None)), 'members': int, 'training': str}
ANEW = 'delete it and run the same command, which writes it anew'
DATA = {'fingerprint': str, 'content?': str, 'vocabulary?': str, 'tokenizer?': str}


@dataclasses.dataclass
class Experiment:
  """A config and a workdir; data, models and the like are built on first use and cached.

  Attributes:
    config: a recipe as plain dicts; missing keys get the defaults of `kdjax/settings.py`.
    workdir: the folder of its stages, checkpoints and reports.
    data_dir: where TFDS keeps prepared data.
    command: the command line, for the report.
    cohort: of a member, the experiment whose data, teacher and baseline it shares.
    teacher_from: the experiment whose teacher this one uses, of the same architecture.
    cache: the folder of compiled programs and decoded data, '' for none.
  """

  config: Mapping[str, Any]
  workdir: Path
  data_dir: str | None = None
  command: str = ''
  cohort: 'Experiment | None' = None
  teacher_from: 'Experiment | None' = None
  cache: str = ''

  def __post_init__(self):
    self.config = settings.complete(self.config)
    check_paths(self.config)

  @cached_property
  def members(self) -> dict[str, 'Experiment']:
    """name -> experiment of each student: the members of `config.cohort`, or 'student' -> this one."""
    if not self.config['cohort']:
      return {'student': self}
    members = {}
    for name, changes in self.config['cohort'].items():
      config = member_config(self.config, name, changes)
      members[name] = dataclasses.replace(self, config=config, workdir=self.workdir / name, cohort=self)
    return members

  @cached_property
  def shared(self) -> dict:
    """The cache of `cached`, one for all members of a cohort."""
    return self.cohort.shared if self.cohort else {}

  def cached(self, key: tuple, make: Callable) -> Any:
    """`make()`, called once for all members of a cohort."""
    if key not in self.shared:
      self.shared[key] = make()
    return self.shared[key]

  def has_outputs(self, stage: str) -> bool:
    """Whether it can be evaluated: a teacher's outputs may lack the test split, its tokens may be others."""
    if stage != 'teacher':
      return True
    if self.data.teacher_tokenizer is not None or not self.config['teacher']['outputs']:
      return self.data.teacher_tokenizer is None
    return any(k.startswith(precomputed.PREFIX) for k in self.data.test.take([0]))

  def stage_config(self, stage: str) -> Mapping[str, Any]:
    """The config of a stage's model and training; baseline and ceiling have the student's."""
    return self.config['teacher' if stage == 'teacher' else 'student']

  def architecture(self, stage: str) -> str:
    """A hash of all that decides a stage's model."""
    config = self.stage_config(stage)
    rounding = {k: v for k, v in build.rounding(config).items() if v}
    known = {k: config[k] for k in ('inputs', 'dtype', 'drop')} | rounding
    return digest(known | {'model': self.attributes(stage)})

  @cached_property
  def has_ceiling(self) -> bool:
    """Whether the student is also trained on all labels alone; with all labels known, the baseline is."""
    return self.config['ceiling'] and self.config['data']['labels'] < 1

  @cached_property
  def data(self) -> load.Data:
    if self.cohort:
      return self.cohort.data
    attach = {'attach': features.make_attach(self.config)} if self.config['data']['features'] else {}
    data = load.data(
      self.config['data'],
      self.workdir,
      self.data_dir,
      self.config['seed'],
      self.cache,
      self.task.label,
      self.config['teacher']['outputs'],
      **attach,
    )
    labels = getattr(data.validation, 'arrays', {}).get('label')
    if self.task.label and labels is not None and not known_labels(self.task.label, labels):
      say("warning: no example has a label in 'validation', which is left out.")
      data = data._replace(validation=None)
    return data

  @cached_property
  def task(self):
    return build.task(self.config['task'])

  def vocabulary_of(self, stage: str) -> str:
    """A hash of the tokenizer that a stage's model reads with, '' without one."""
    return tokenizer.mark(self.data.of(stage).tokenizer)

  def model(self, stage: str):
    """The model of a stage: one object an architecture, so that a cohort shares its compiled programs."""
    config = {**self.stage_config(stage), 'model': self.attributes(stage)}
    root = self.cohort or self
    names = set().union(*(build.tap_names(m.config['methods']) for m in root.members.values()))
    names -= self.data.train.take([0]).keys()  # 'text/mask' is no module

    def make():
      data = self.data.of(stage)
      plain = build.model(config, data, self.task)
      known = self.trace(plain, stage)[1] if names else {}
      return build.model(config, data, self.task, capture=True) if names - set(known) else plain

    return self.cached(('model', self.architecture(stage)), make)

  def attributes(self, stage: str) -> dict:
    """The config of a stage's model; a published checkpoint fills in what it leaves out."""
    config = self.stage_config(stage)

    def make():  # cached, since it may read a hub
      attributes = complete(config['model'])
      if stage == 'teacher' and config['init']:
        return pretrained.complete(config['init'], attributes)
      return attributes

    return self.cached(('attributes', stage, digest(config['model'])), make)

  @cached_property
  def teacher_is_published(self) -> bool:
    """Whether the teacher is not trained: it has `teacher.init`, or all of its parts are frozen."""
    weights = {} if self.config['teacher']['init'] else self.shapes('teacher')[0]
    return not weights.get('params') and bool(weights.get('frozen') or not weights)

  def published(self) -> dict:
    """The variables of a teacher that is not trained.

    Raises:
      KdjaxError: for a part that is frozen and has no 'init'.
    """
    return self.cached(PUBLISHED, lambda: initial_weights.published(self))

  def start(self, stage: str, i: int = 0) -> dict:
    """The initial variables of a stage's model: a part of them, or {}.

    A baseline has the student's, those from the teacher of seed i too.
    """
    key = 'start', stage, self.architecture(stage), i
    return self.cached(key, lambda: initial_weights.start(self, stage, i))

  def one_teacher(self, i: int = 0) -> dict:
    """The teacher's variables for seed i: of the one teacher, or with `redraw` of the i-th."""
    seeds = self.seeds('teacher')
    return self._seed_variables('teacher', seeds[i if len(seeds) > 1 else 0])

  def method(self):
    """The distillation losses, combined."""
    student = self.config['student']

    def peer(attributes):
      return build.model({**student, 'model': attributes}, self.data, self.task)

    def examples():
      return self.cached(('examples',), lambda: pipeline.places(self.data.transfer_set))

    count_examples = examples if self.protocol > 1 else None  # an older workdir was trained without it
    return build.method(self.config['methods'], student['train']['steps'], peer, count_examples)

  def shapes(self, stage: str) -> tuple[dict, dict]:
    """(shapes of the variables of a stage's model, shapes of its taps for one batch)."""
    model = self.model(stage)
    return self.cached(('shapes', self.architecture(stage)), lambda: self.trace(model, stage))

  def trace(self, model: Model, stage: str) -> tuple[dict, dict]:
    """(shapes of its variables, shapes of its taps) of a model, for a batch of the training data."""
    batch = next(pipeline.eval_batches(self.data.train, jax.process_count()))
    key = jax.random.key(0)
    with explained(f'the model of the {stage} cannot be built with its options for these data'):
      variables = jax.eval_shape(model.init, key, batch)
      jax.eval_shape(lambda v, b: model.apply(v, b, train=True, rng=key), variables, batch)
      return variables, jax.eval_shape(lambda v, b: model.apply(v, b, train=False)[0], variables, batch)

  def evaluator(self, stage: str) -> Callable:
    """The `evaluate` of `make_evaluate` for a stage's model."""

    def make():
      run = self.config['run']
      size, mesh = run['eval_batch'], sharding.make_mesh(run['mesh'])
      rules = run['shard']['teacher' if stage == 'teacher' else 'student']
      evaluate = make_evaluate(self.model(stage), self.task, mesh, size, rules=rules)
      return (
        self._with_generation(stage, evaluate, mesh, size) if self.config['generation']['seeds'] else evaluate
      )

    return self.cached(('evaluator', self.architecture(stage)), make)

  def _with_generation(self, stage, evaluate, mesh, size):
    """`evaluate`, which on the test split also scores generated responses, and captions on any other."""
    config, data = self.config['data'], self.data
    settings = data.tokenizer, self.config['generation'], config['prompt_length']
    score = generation_metrics.make_score(self.model(stage), *settings, mesh, size)

    def evaluate_and_score(variables, source, title=''):
      evaluated = evaluate(variables, source, title)
      more = {} if self.task.prompted else {'validation': data.validation, **data.also}
      known = more | {config['test']: data.test}
      split = next((name for name, own in known.items() if own is source), None)
      if split is None:
        return evaluated
      scores, texts = score(variables, source, splits.examples_of(data.dataset, split), title)
      gathered = [g | {'written': t} for g, t in zip(evaluated.gathered, texts, strict=bool(texts))]
      return evaluated._replace(metrics=evaluated.metrics | scores, gathered=gathered or evaluated.gathered)

    return evaluate_and_score

  @cached_property
  def protocol(self) -> int:
    """The version of its random streams, of when the workdir was begun: see `streams.PROTOCOL`."""
    return self.cohort.protocol if self.cohort else streams.protocol(self.workdir)

  def seeds(self, stage: str) -> tuple[int, ...]:
    """The seeds of a stage: one for the teacher, unless it is redrawn."""
    if self.teacher_from and stage == 'teacher':
      return self.teacher_from.seeds(stage)
    one = stage == 'teacher' and 'teacher' not in self.config['redraw']
    n = 1 if one else self.config['seeds']
    return tuple(self.config['seed'] + i for i in range(n))

  def source(self, stage: str, i: int = 0) -> Any:
    """The training examples of seed i of a stage."""
    data = self.data
    if stage == 'teacher':
      return data.train
    transfer_set, labelled_subset = data.transfer_set, data.labelled_subset
    if i and 'labels' in self.config['redraw']:
      transfer_set, labelled_subset = few_labels(
        data.transfer, self.config['data']['labels'], self.config['seed'] + i, self.task.label
      )
    if stage == 'ceiling':
      return few_labels(data.transfer, 1.0, self.config['seed'], self.task.label)[1]
    if stage == 'baseline' and self.config['data']['labels'] == 1 and self.protocol < 3:
      return transfer_set  # older workdirs kept the examples without labels
    return labelled_subset if stage == 'baseline' else transfer_set

  def folder(self, stage: str) -> Path:
    """The folder of a stage; members share that of the teacher, and of the baseline of an equal student."""
    if self.teacher_from and stage == 'teacher':
      return self.teacher_from.folder(stage)
    if self.cohort and stage == 'teacher':
      return self.cohort.folder(stage)
    if self.cohort and stage in ('baseline', 'ceiling'):
      if self.config['student'] == self.cohort.config['student']:
        return self.cohort.folder(stage)
      return self.cohort.workdir / f'{stage}s' / digest(self.config['student'])
    return self.workdir / stage

  def done(self, stage: str) -> bool:
    """Whether a stage is finished."""
    return (self.folder(stage) / 'stage.json').exists()

  def trained(self, stage: str) -> bool:
    """Whether a stage is finished and has weights: a member whose loss was not finite has none."""
    return self.done(stage) and 'failed_at' not in self.summary(stage)

  def summary(self, stage: str) -> dict:
    """The stage.json of a finished stage."""
    return read_json(self.folder(stage) / 'stage.json', STAGE, f'{ANEW} from the last checkpoint')

  def variables(self, stage: str) -> dict:
    """The variables of a finished stage, stacked over its seeds.

    Raises:
      KdjaxError: if the stage is not finished.
    """
    loaded = [self._seed_variables(stage, seed) for seed in self.seeds(stage)]
    return jax.tree.map(lambda *x: np.stack(x), *loaded)

  def _seed_variables(self, stage, seed):
    """The variables of one seed of a finished stage."""
    if not self.trained(stage):
      raise KdjaxError(f'{self.workdir} holds no finished {stage}: run the {stage} first.')
    file = self.folder(stage) / f'seed_{seed}.safetensors'
    loaded = safetensors_io.load(file, self.shapes(stage)[0], self.vocabulary_of(stage))
    return finite.check(loaded, str(file), f'remove {self.folder(stage)} and train the {stage} anew')
