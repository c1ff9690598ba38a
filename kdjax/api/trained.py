"""A model that kdjax trained: predictions, outputs, weights, and a folder to give away."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import unflatten_dict

from kdjax import registry
from kdjax.errors import KdjaxError
from kdjax.experiment import build, saved_model
from kdjax.experiment import predict as prediction
from kdjax.export import run as export
from kdjax.nn import wrappers
from kdjax.nn.wrappers import nnx_module
from kdjax.pretrained import safetensors_io
from kdjax.runtime import files, trust
from kdjax.runtime.files import user_path
from kdjax.training import quantization_aware

STAGE = {'seeds': [int], 'model': {'model': str}}


class Trained:
  """A trained model in a folder.

  Attributes:
    workdir: of the experiment, or of `save`.
    stage: 'teacher', 'baseline', 'ceiling' or 'student'.
    seed: which of the stage's.
    trust: modules outside kdjax that may be imported.
  """

  def __init__(
    self, workdir: Path, stage: str = 'student', seed: int | None = None, trust: Sequence[str] = ()
  ):
    self.workdir, self.stage, self.trust = Path(workdir), stage, tuple(trust)
    self.summary = files.read_json(self.folder / 'stage.json', STAGE, saved_model.ANEW)
    self.seed = self.summary['seeds'][0] if seed is None else seed

  @property
  def folder(self) -> Path:
    """The folder of the stage."""
    return self.workdir / self.stage

  @property
  def weights(self) -> Path:
    """The safetensors file of the weights."""
    return self.folder / f'seed_{self.seed}.safetensors'

  @cached_property
  def predictor(self) -> prediction.Predictor:
    """The model, ready to answer."""
    return prediction.load(self.workdir, self.stage, self.seed, self.trust)

  @property
  def model(self) -> dict[str, Any]:
    """The dict of the model in a config."""
    return {k: v for k, v in self.summary['model'].items() if k not in ('init', 'frozen')}

  @property
  def variables(self) -> dict[str, Any]:
    """The weights as a dict of collections, 'params' and, where there are any, others; what is frozen is in
    'params' too."""
    return unflatten_dict(safetensors_io.read(self.weights)[0], sep='/')

  def module(self) -> Any:
    """The Flax module with its weights, for code that knows nothing of kdjax.

    Returns:
      Of NNX the module with its state, in evaluation mode, to call, to `nnx.split`, to save with Orbax. Of
      Linen (module, variables), for `module.apply(variables, …)`; a model of kdjax takes a dict and returns
      its taps.

    Raises:
      KdjaxError: for a function, which is no module.
    """
    section, path = 'teacher' if self.stage == 'teacher' else 'student', self.folder / 'stage.json'
    summary = files.read_json(path, STAGE | {'fill': dict}, saved_model.ANEW)
    config = files.read_json(self.workdir / 'config.json', {section: dict}, saved_model.ANEW)
    trust.ask({'model': summary['model']}, summary.get('modules'), self.trust, path)
    net = build.module(summary['model'], summary['fill'])
    wrapped = wrappers.wrap(net)
    if isinstance(wrapped, wrappers.Function):
      raise KdjaxError(f'the {self.stage} is a function, and no module of Flax.')
    bits = build.rounding(config[section])['weight_bits']
    variables = dict(quantization_aware.weights(self.variables, bits))
    if not isinstance(wrapped, nnx_module.Nnx):
      return net, variables
    module = wrapped.merged(variables)
    module.eval()
    return module

  def predict(self, inputs: Any, top: int = 1, batch: int = 256) -> list:
    """The most likely answers for examples, in their order.

    Args:
      inputs: an array or a list of the one input, or a dict of columns: 'image' [N, H, W, C], 'text' [str],
        'audio' [N, samples].
      top: how many answers each: 1 gives [name], more give [[(name, score), …]], the best first.
      batch: examples at a time.

    Raises:
      KdjaxError: for inputs that the model does not take.
    """
    answers = self.predictor.predict(self._columns(inputs), batch, top)
    return [answer[0][0] for answer in answers] if top == 1 else answers

  def outputs(self, inputs: Any, batch: int = 256) -> dict[str, np.ndarray]:
    """The taps for examples, such as 'logits' [N, C]; `inputs` and `batch` as in `predict`."""
    return self.predictor.outputs(self._columns(inputs), batch)

  def _columns(self, inputs) -> Mapping[str, Sequence]:
    if isinstance(inputs, Mapping):
      return inputs
    names = self.predictor.inputs
    if len(names) != 1:
      raise KdjaxError(f'the model takes {" and ".join(names)}: give a dict of these.')
    return {names[0]: inputs}

  def save(self, folder: str | Path) -> Path:
    """Writes the model to a folder, which `kdjax.load` and `kdjax predict --workdir` read.

    Raises:
      KdjaxError: if the folder holds something else.
    """
    folder = user_path(folder)
    if folder.exists() and not (folder / 'student' / 'stage.json').exists() and any(folder.iterdir()):
      raise KdjaxError(f'{folder} is not empty, and holds no model of kdjax: choose another folder.')
    saved_model.write(self.workdir, self.stage, self.seed, folder)
    return folder

  def export(self, *formats: str, packed: bool = False) -> list[Path]:
    """Writes the model for other runtimes, see docs/ship.md; the command `export` measures it too.

    Args:
      formats: such as 'onnx', 'litert-int8', 'stablehlo', 'python', 'hf'.
      packed: whether the files of models are gzipped.

    Returns:
      The folder of each, in `workdir`/exports.

    Raises:
      KdjaxError: for a model that a format cannot take, or a package that is missing.
    """
    export.export(self.workdir, formats, None, self.stage, self.seed, self.trust, packed)
    return [export.folder(self.workdir, name, self.stage) for name in formats]

  def __repr__(self) -> str:
    return f'{self.stage} of {self.workdir}: {self.model["model"]}, seed {self.seed}'


def given(trained: Trained, module: Any) -> None:
  """Makes the Python object known that a model was trained as, in a program that has not trained it."""
  name = trained.model['model']
  if registry.is_object(name) and module is not None:
    registry.OBJECTS[name] = registry.PythonObject(module)
