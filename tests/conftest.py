"""Made data, and a config of seconds. Everything runs on CPU, as eight devices."""

import os

os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['XLA_FLAGS'] = '--xla_force_host_platform_device_count=8'
os.environ['JAX_DISABLE_MOST_OPTIMIZATIONS'] = '1'  # LLVM's: they take most of the time and change no HLO
# Compiled programs are kept for the next run, those of processes that tests start too.
os.environ['JAX_COMPILATION_CACHE_DIR'] = os.path.expanduser('~/.cache/kdjax-tests/xla')
os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0.1'

import gc
import json

import jax
import numpy as np
import pytest
from PIL import Image

from kdjax import recipes
from kdjax.experiment import stages
from kdjax.experiment.experiment import Experiment
from kdjax.recipes import model, training
from kdjax.training import sharding

COLOURS = {'red': (220, 30, 30), 'green': (30, 200, 30), 'blue': (30, 30, 220)}


@pytest.fixture(scope='session')
def shared_folder(tmp_path_factory):
  """One for the whole run, whichever process a test lands in."""
  base = tmp_path_factory.getbasetemp()
  return base.parent if os.environ.get('PYTEST_XDIST_WORKER') else base


def pytest_collection_modifyitems(items):
  """The tests that share the traced programs of all methods come in a row, so that one process has them."""
  items.sort(key=lambda item: item.path.stem not in ('test_methods', 'test_extremes'))


@pytest.fixture(scope='session', autouse=True)
def seldom_collected():
  """Tracing makes millions of objects that stay: Python would look through them every 700."""
  gc.freeze()
  gc.set_threshold(50_000, 20, 20)


@pytest.fixture(autouse=True)
def optimised(request, monkeypatch):
  """Tests marked so run what a user's machine runs, to the last bit."""
  whole = request.node.get_closest_marker('optimised') is not None
  monkeypatch.setenv('JAX_DISABLE_MOST_OPTIMIZATIONS', str(int(not whole)))
  jax.config.update('jax_disable_most_optimizations', not whole)


@pytest.fixture(scope='session')
def manifest(tmp_path_factory):
  """90 questions about 30 squares of one colour each, as a JSONL file beside its images."""
  folder, rng, rows = tmp_path_factory.mktemp('squares'), np.random.default_rng(0), []
  for i in range(30):
    colour = list(COLOURS)[i % 3]
    image = np.clip(rng.normal(COLOURS[colour], 40, (16, 16, 3)), 0, 255).astype(np.uint8)
    Image.fromarray(image).save(folder / f'{i}.png')
    split = 'test' if i % 5 == 0 else 'validation' if i % 5 == 1 else 'train'
    other = list(COLOURS)[(i + 1) % 3]
    questions = [('what colour is it?', colour), (f'is it {colour}?', 'yes'), (f'is it {other}?', 'no')]
    rows += [{'image': f'{i}.png', 'text': q, 'label': a, 'split': split} for q, a in questions]
  path = folder / 'rows.jsonl'
  path.write_text('\n'.join(map(json.dumps, rows)))
  return path


def fusion(width, **image):
  encoders = {'image': model('resnet', **image), 'text': model('bag_of_words', width=width)}
  return model('fusion', width=2 * width, encoders=encoders)


@pytest.fixture
def config(manifest):
  """A whole experiment on the made data: three stages of a few steps."""
  recipe_ = recipes.base('made')
  recipe_.seeds = 1
  recipe_.data.update(name='manifest', text_length=8, vocab_size=32)
  recipe_.data.path = str(manifest)
  recipe_.teacher.model = fusion(16, widths=(8, 16), blocks=(0, 1), patch=4)
  recipe_.student.model = fusion(4, widths=(4, 8), blocks=(0, 1), patch=4)
  recipe_.teacher.train = training(6, 16, 1e-2)
  recipe_.student.train = training(6, 16, 1e-2)
  recipe_.methods = {'kd': {'weight': 1.0, 'temperature': 2.0}}
  recipe_.run.update(eval_every=3, log_every=2, save_every=2, eval_batch=16)
  return recipe_


@pytest.fixture
def trained(config, tmp_path_factory):
  """The made experiment, trained once a process: what was done before is not done again."""
  exp = Experiment(config.to_dict(), tmp_path_factory.getbasetemp() / 'trained')
  stages.run(exp, ('teacher', 'baseline', 'student'))
  return exp


@pytest.fixture
def experiment(config, tmp_path):
  """`experiment()`: of the fixture's config as it stands by then, in a folder of its own."""

  def make(folder='w', **options):
    return Experiment(config.to_dict(), tmp_path / folder, **options)

  return make


@pytest.fixture(autouse=True)
def one_device(request, monkeypatch):
  """Eight simulated devices share two cores: only the tests that ask for them get them."""
  if 'eight_devices' not in request.fixturenames:
    mesh = jax.make_mesh((1,), ('data',), (jax.sharding.AxisType.Auto,), devices=jax.devices()[:1])
    monkeypatch.setattr(sharding, 'make_mesh', lambda *a, **k: mesh)


@pytest.fixture
def eight_devices():
  assert jax.device_count() == 8
