"""Deep Compression of one network and seed, for a table: pruned, shared, coded; with and without KD."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kdjax.compress import file, parametrize, prune, retrain, sparse
from kdjax.compress.parametrize import INDEX
from kdjax.errors import KdjaxError
from kdjax.experiment import build
from kdjax.experiment.experiment import Experiment
from kdjax.input import splits
from kdjax.runtime import progress
from kdjax.training.loss_weights import combine

WIDE = 8  # bits of a gap, beside those of the recipe
Measured = dict[str, dict[str, list[float]]]  # 'member/stage' -> measure -> values


@dataclasses.dataclass(frozen=True)
class Layer:
  """A layer to compress: the share of its weights that is kept, the bits of a weight and of a gap."""

  density: float
  bits: int
  index_bits: int = 5


@dataclasses.dataclass(frozen=True)
class Recipe:
  """How a network is trained and compressed.

  Attributes:
    layers: path of a kernel -> what is done to it.
    small: model config of a dense network of the same bytes.
    rounds: of pruning and retraining.
    epochs: of the trainings 'dense', 'round' (each but the last), 'last' (round) and 'share' (centroids).
    optimisers: of 'dense', 'prune' and 'share', as `optimizers.optimiser` takes them.
    batch_size: examples a step.
    iterations: of k-means, the most.
  """

  layers: Mapping[str, Layer]
  small: Mapping[str, Any]
  rounds: int
  epochs: Mapping[str, int]
  optimisers: Mapping[str, Mapping[str, Any]]
  batch_size: int
  iterations: int = 100

  @property
  def all_epochs(self) -> int:
    """Of a compressed network, from its first step on."""
    return sum(self.epochs.values()) + (self.rounds - 2) * self.epochs['round']


class Study:
  """The trainings of one experiment; its model is the student's, and its methods those of KD.

  Args:
    experiment: with a teacher that is trained.
    recipe: of the network.

  Raises:
    KdjaxError: where the data do not fit in memory.
  """

  def __init__(self, experiment: Experiment, recipe: Recipe):
    self.experiment, self.recipe, self.seed = experiment, recipe, experiment.seeds('student')[0]
    data = experiment.data
    if not all(isinstance(s, splits.InMemorySplit) for s in (data.train, data.test)):
      raise KdjaxError('compression trains on data in memory: raise data.memory.')
    self.train, self.test = (
      {k: jnp.asarray(s.arrays[k]) for k in ('image', 'label')} for s in (data.train, data.test)
    )
    held = data.validation or data.test
    self.validation = {k: jnp.asarray(held.arrays[k]) for k in ('image', 'label')}
    self.model = experiment.model('student')
    self.methods = {False: combine({}), True: experiment.method()}
    self.made = {}

  def fit(self, model: Any, kind: str, epochs: int, distil: bool = False) -> retrain.Retrain:
    """The functions to train `model`: 'dense', 'pruned', 'shared' or 'small'; compiled once for each kind."""
    key = model, kind, epochs, distil
    if key not in self.made:
      small = {**self.experiment.config['student'], 'model': self.recipe.small}
      nets = {
        'dense': lambda: self.model,
        'pruned': lambda: parametrize.pruned(self.model),
        'shared': lambda: parametrize.shared(self.model),
        'small': lambda: build.model(small, self.experiment.data, self.experiment.task),
      }
      self.made[key] = retrain.make(
        nets[model](),
        self.experiment.task,
        self.methods[distil],
        self.recipe.optimisers[kind],
        epochs=epochs,
        batch_size=self.recipe.batch_size,
        examples=len(self.train['label']),
        task_weight=self.experiment.config['task_weight'] if distil else 1.0,
      )
    return self.made[key]

  def taught_by(self, model: Any, variables: Any) -> dict:
    """The training arrays with the logits of a teacher."""
    forward = jax.jit(lambda v, b: {'logits': model.apply(v, b, train=False)[0]['logits']})
    n, size = len(self.train['label']), retrain.LARGEST
    images = (self.train['image'][i : i + size] for i in range(0, n, size))
    logits = np.concatenate([np.asarray(forward(variables, {'image': x})['logits']) for x in images])
    return retrain.taught(self.train, {'logits': jnp.asarray(logits)})

  def scores(self, functions: retrain.Retrain, variables: Any) -> dict[str, list[float]]:
    """Errors in per cent on test and validation."""
    splits_ = {'error': self.test, 'validation': self.validation}
    return {k: [functions.errors(variables, arrays)] for k, arrays in splits_.items()}

  def compressed(self, dense: Any, arrays: Mapping, path: Path) -> tuple[Measured, Any]:
    """Prunes in rounds, shares, trains the centroids and writes the file; with KD if the arrays are taught.

    Returns:
      (the scores 'pruned', 'shared' (before its training), 'coded', of the weights read back from the file,
      and 'wide', which is 'coded' with the size of `wide`; the variables of the shared model).
    """
    recipe, distil = self.recipe, any(k.startswith(retrain.TEACHER) for k in arrays)
    seed, variables = self.seed + 1000, dense
    for i in range(1, recipe.rounds + 1):
      now = {k: layer.density ** (i / recipe.rounds) for k, layer in recipe.layers.items()}
      masks = prune.masks(variables['params'], now)
      last = i == recipe.rounds
      functions = self.fit('pruned', 'prune', recipe.epochs['last' if last else 'round'], distil)
      trained = functions.train(parametrize.to_pruned(variables, masks), arrays, seed + i)
      variables = jax.device_get(parametrize.folded(trained))
      validation = functions.errors(trained, self.validation)
      progress.say(f'{path.stem}: round {i} of {recipe.rounds}, {validation:.2f} % wrong on validation')
    out = {'pruned': self.scores(functions, trained)}
    begun = parametrize.to_shared(
      variables, {k: layer.bits for k, layer in recipe.layers.items()}, iterations=recipe.iterations
    )
    functions = self.fit('shared', 'share', recipe.epochs['share'], distil)
    out['shared'] = self.scores(functions, begun)
    shared = functions.train(begun, arrays, seed)
    folded = jax.device_get(parametrize.folded(shared))
    size = file.write(path, folded, index_bits=self.index_bits())
    again, _ = file.read(path)
    if not jax.tree.all(jax.tree.map(np.array_equal, again, folded)):
      raise KdjaxError(f'{path} does not hold what was written.')
    scores = self.scores(self.fit('dense', 'dense', recipe.epochs['dense']), again)
    out['coded'] = scores | sizes(folded, size)
    out['wide'] = scores | sizes(folded, self.wide(path))
    return out, shared

  def index_bits(self) -> dict[str, int]:
    return {f'params/{k}': layer.index_bits for k, layer in self.recipe.layers.items()}

  def wide(self, path: Path) -> int:
    """The size in bytes of the same weights with gaps of `WIDE` bits: few fillers, and Huffman's code."""
    bits = dict.fromkeys(self.index_bits(), WIDE)
    return file.write(path.with_stem(f'{path.stem}_wide'), file.read(path)[0], index_bits=bits)

  def layers(self, shared: Any) -> dict[str, sparse.Size]:
    """The size of each layer, as the paper counts."""
    flat = {'/'.join(p.key for p in k): v for k, v in jax.tree_util.tree_leaves_with_path(shared[INDEX])}
    return {k: sparse.size(flat[k], layer.bits, layer.index_bits) for k, layer in self.recipe.layers.items()}


def parameters(variables: Any) -> int:
  return sum(x.size for x in jax.tree.leaves(variables['params']))


def sizes(variables: Any, size: int) -> dict[str, list[float]]:
  """A file of so many bytes, in kB, and how many times smaller it is than the parameters in float32."""
  return {'kB': [size / 1000], '×': [4 * parameters(variables) / size]}


def run(recipe: Recipe, experiment: Experiment) -> Measured:
  """All rows of a network for one seed: 'member/stage' -> measure -> [value].

  'dense', 'pruned', 'shared', 'coded', 'wide'; 'coded' with KD from the dense network, 'kd', and from the
  teacher of the experiment, 'kd_large'; 'small', the dense network of the same bytes, with KD from the dense
  one. The 'baseline' of a member is what its errors are compared with: the dense network, the coded one
  without KD, the small one without KD. A layer, and 'whole', has its sizes under 'baseline'. No score
  chooses anything.
  """
  study, folder, epochs = Study(experiment, recipe), experiment.workdir, recipe.epochs
  folder.mkdir(parents=True, exist_ok=True)
  functions = study.fit('dense', 'dense', epochs['dense'])
  dense = functions.train(functions.init(study.seed, study.train), study.train, study.seed)
  of_dense = study.scores(functions, dense)
  of_dense |= sizes(dense, 4 * parameters(dense))
  progress.say(f'dense: {of_dense["validation"][0]:.2f} % wrong on validation')
  plain, shared = study.compressed(dense, study.train, folder / 'coded.kdz')
  out = {'dense/baseline': of_dense}
  for name, values in plain.items():
    out |= {f'{name}/student': values, f'{name}/baseline': of_dense}
  layers = study.layers(shared)
  for name, size in (layers | {'whole': sparse.together(layers)}).items():
    out[f'{name}/baseline'] = {k: [v] for k, v in size.measures().items()}
  by_dense = study.taught_by(study.model, dense)
  teacher = experiment.model('teacher'), experiment.one_teacher(0)
  for name, arrays in (('kd', by_dense), ('kd_large', study.taught_by(*teacher))):
    values, _ = study.compressed(dense, arrays, folder / f'{name}.kdz')
    out |= {f'{name}/student': values['coded'], f'{name}/baseline': plain['coded']}
    out |= {f'{name}_pruned/student': values['pruned'], f'{name}_pruned/baseline': plain['pruned']}
  for stage, arrays in (('baseline', study.train), ('student', by_dense)):
    functions = study.fit('small', 'dense', recipe.all_epochs, stage == 'student')
    small = functions.train(functions.init(study.seed, arrays), arrays, study.seed)
    out[f'small/{stage}'] = study.scores(functions, small) | {'kB': [4 * parameters(small) / 1000]}
  forward = retrain.make(
    teacher[0], experiment.task, combine({}), recipe.optimisers['dense'], epochs=1, batch_size=1, examples=1
  )
  out['teacher'] = study.scores(forward, teacher[1]) | {'kB': [4 * parameters(teacher[1]) / 1000]}
  return out
