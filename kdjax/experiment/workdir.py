"""A workdir belongs to the config and the data that it was begun with."""

import json

import jax

import kdjax
from kdjax import settings
from kdjax.errors import KdjaxError, differences
from kdjax.experiment.experiment import ANEW, DATA, Experiment
from kdjax.input import augment, tokenizer
from kdjax.runtime import files, hosts
from kdjax.runtime.config_tree import flat
from kdjax.runtime.files import fingerprint


def agree(experiment: Experiment, *command: str) -> None:
  """Checks that all processes of a pod run the same; their data are compared by `claim_workdir`.

  Raises:
    KdjaxError: on every process, with what differs.
  """
  config = flat(json.loads(json.dumps(experiment.config, default=str)))
  same = {'kdjax': kdjax.__version__, 'command': ' '.join(command)}
  hosts.agree(same | config, 'Start the same version with the same command on every host.')


def claim_workdir(experiment: Experiment) -> None:
  """Writes config and data to the workdir, and to the folder of each member.

  Raises:
    KdjaxError: as `check_workdir` does.
  """
  check_workdir(experiment)
  hosts.agree(
    _data_identity(experiment), 'All hosts have to read the same data: see data.path and --data_dir.'
  )
  experiments = {id(e): e for e in (experiment, *experiment.members.values())}.values()
  for member in experiments if not jax.process_index() else ():
    files.write_json(member.workdir / 'protocol.json', {'protocol': member.protocol})
    files.write_json(member.workdir / 'config.json', member.config)
    data, tokenizer_path = _data_identity(member), member.workdir / tokenizer.FILE
    if member.data.tokenizer is not None:
      if not tokenizer_path.exists():
        files.write(tokenizer_path, member.data.tokenizer.to_str())
      data |= {'tokenizer': fingerprint(tokenizer_path.read_bytes())}
    files.write_json(member.workdir / 'data.json', data)


def check_workdir(experiment: Experiment) -> None:
  """Checks a workdir, and changes nothing.

  Raises:
    KdjaxError: if the workdir, or a member's, belongs to another config or other data; it names what
      differs.
  """
  path = experiment.workdir / 'config.json'
  expected = flat(json.loads(json.dumps(experiment.config)))
  if experiment.workdir.exists() and not experiment.workdir.is_dir():
    raise KdjaxError(f'--workdir is {experiment.workdir}, which is a file.')
  if path.exists():
    stored = files.read_json(path, {'data': dict, 'teacher': dict, 'student': dict}, ANEW)
    stored = flat(json.loads(json.dumps(settings.complete(stored))))
    fixed = {'run.parallel'} | ({'run.eval_every'} if experiment.config['select'] == 'best' else set())
    members = experiment.members.values()
    fixed |= {'store.views'} if augment.of_store(m.config for m in members) else set()
    # A member more changes nothing for the others, and has a claim of its own; a store has its manifest.
    free = (
      'run.',
      'cohort.',
      'store.',
      'modality_robustness.',
      'generation.',
      'data.test',
      'data.also',
      'ceiling',
      'data.limit.test',
      'data.options.download',
    )
    keys = [
      k for k in expected.keys() | stored.keys() if not k.startswith(free) and k != 'cohort' or k in fixed
    ]
    if recorded := differences(stored, expected, keys):
      raise KdjaxError(
        f'{experiment.workdir} belongs to another config ({recorded}): choose another --workdir.'
      )
  expected, recorded = (
    _data_identity(experiment),
    files.read_json(experiment.workdir / 'data.json', DATA, ANEW, {}),
  )
  for key in (k for k in expected if recorded.get(k, expected[k]) != expected[k]):
    what = 'vocabulary has' if key == 'vocabulary' else 'data have'
    raise KdjaxError(f'the {what} changed since {experiment.workdir} was begun: choose another --workdir.')
  for member in experiment.members.values():
    if member is not experiment:
      check_workdir(member)


def checked(experiment: Experiment) -> bool:
  """Whether the workdir was begun with the same data, so that all examples were checked then."""
  recorded = files.read_json(experiment.workdir / 'data.json', DATA, ANEW, {})
  return all(recorded.get(key) == now for key, now in _data_identity(experiment).items())


def _data_identity(experiment):
  """What identifies the data of a workdir; one of an older version has the fingerprint alone."""
  dataset = experiment.data.dataset
  mark = {'fingerprint': dataset.fingerprint, 'vocabulary': experiment.vocabulary_of('student')}
  return mark | ({'content': dataset.content} if dataset.content else {})
