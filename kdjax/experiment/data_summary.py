"""What is in the data of a recipe, before anything is trained: `kdjax data`, as a dict and as a page."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text
from tokenizers import Tokenizer

from kdjax import report, settings
from kdjax.experiment import build, data_checks, load
from kdjax.input import splits as splits_
from kdjax.input.encode import known_labels
from kdjax.runtime import progress
from kdjax.types import NO_INPUT, DataSet

SAMPLE = 2000  # texts of a split whose tokens are counted
SHOWN = 20  # classes a table
CARDS = 8  # examples on the page
PERCENTILES = (50, 90, 99)


def summarise(config: Mapping[str, Any], workdir: Path, data_dir: str | None = None, cache: str = '') -> dict:
  """Splits, classes, shapes, counts of labels, duplicates, lengths of texts, missing modalities.

  Args:
    config: a recipe as plain dicts, of which 'data', 'task' and 'seed' are read.
    workdir: whose vocabulary is taken, where it has one; nothing is written.
    data_dir: where TFDS keeps prepared data.
    cache: the folder of decoded data.

  Returns:
    Plain JSON, with a dict for each split under 'splits'.

  Raises:
    KdjaxError: for data that cannot be read.
  """
  return _read(config, workdir, data_dir, cache)[0]


def _read(config, workdir, data_dir, cache) -> tuple[dict, load.Data]:
  config = settings.complete(config)
  task, chosen = build.task(config['task']), config['data']
  data = load.data(chosen, workdir, data_dir, config['seed'], cache, task.label)
  sources = {'train': data.train}
  sources |= {} if data.validation is None else {'validation': data.validation}
  sources |= {**data.also, chosen['test']: data.test}
  train_hashes, splits = np.array([], np.uint64), {}
  for split, source in sources.items():
    summary, hashes = _split(split, source, data, task.label)
    summary['in_train'] = 0 if split == 'train' else int(np.isin(hashes, train_hashes).sum())
    train_hashes = np.unique(hashes) if split == 'train' else train_hashes
    summary['texts'] = _lengths(data.dataset.splits.get(split, ()), data.tokenizer)
    splits[split] = summary
  dataset = data.dataset
  result = {
    'name': chosen['name'] or Path(chosen['path']).name,
    'path': chosen['path'],
    'task': config['task']['name'],
    'classes': list(dataset.classes) if 'response' not in dataset.splits['train'][0] else [],
    'rate': dataset.rate,
    'licence': dataset.licence,
    'fingerprint': dataset.fingerprint,
    'text_length': chosen['text_length'],
    'splits': splits,
  }
  return result | {'notes': _notes(result)}, data


def _split(split, source, data, kind) -> tuple[dict, np.ndarray]:
  """(the summary of a split, a hash of each example's inputs)."""
  n, keys, hashes, labels, present = 0, {}, [], [], {}
  for arrays in data_checks.chunks(split, source):
    count = len(next(iter(arrays.values())))
    keys = keys or {
      k: f'{v.dtype} {list(v.shape[1:])}' for k, v in arrays.items() if k not in ('id', 'group')
    }
    inputs = {k: v for k, v in arrays.items() if k not in NO_INPUT}
    hashes.append(data_checks.hashes(inputs, count))
    labels += [np.asarray(arrays['label'])] if 'label' in arrays else []
    for key, value in arrays.items():
      if key.endswith('/present'):
        present[key] = present.get(key, 0) + float(np.sum(value))
    n += count
  every = np.concatenate(hashes)
  summary = {'examples': n, 'keys': keys, 'duplicates': int(n - len(np.unique(every)))}
  summary['missing'] = {k.removesuffix('/present'): 1 - v / n for k, v in present.items()}
  return summary | (_labels(np.concatenate(labels), kind, data.dataset) if labels else {}), every


def _labels(labels: np.ndarray, kind: str, dataset: DataSet) -> dict:
  """Counts of the classes, or mean, deviation and range of the numbers, and how many are not known."""
  if kind == 'number' or (labels.dtype.kind == 'f' and labels.ndim == 1):
    known = labels[np.isfinite(labels)].astype(np.float64)
    values = (
      {'mean': known.mean(), 'std': known.std(), 'least': known.min(), 'most': known.max()}
      if len(known)
      else {}
    )
    return {'unlabelled': len(labels) - len(known), 'numbers': {k: float(v) for k, v in values.items()}}
  if labels.ndim == 2:
    counts, known = (labels > 0).sum(0), known_labels('classes', labels)
  else:
    counts, known = (
      np.bincount(labels[labels >= 0], minlength=len(dataset.classes)),
      known_labels('class', labels),
    )
  names = dataset.classes or tuple(map(str, range(len(counts))))
  return {
    'unlabelled': int(len(labels) - known),
    'labels': {name: int(n) for name, n in zip(names, counts, strict=False)},
  }


def _lengths(examples, tokenizer) -> dict[str, dict[str, int]]:
  """Text -> percentiles of its tokens, of a sample, before any is cut."""
  if tokenizer is None or not len(examples):
    return {}
  whole = Tokenizer.from_str(tokenizer.to_str())
  whole.no_truncation()
  whole.no_padding()
  rows = np.unique(np.linspace(0, len(examples) - 1, min(len(examples), SAMPLE)).astype(int))
  sample = [examples[int(i)] for i in rows]
  lengths_of = {}
  for key in [k for k, v in sample[0].items() if isinstance(v, str)]:
    lengths = [len(encoded.ids) for encoded in whole.encode_batch([e[key] for e in sample])]
    lengths_of[key] = {f'{p} %': int(np.percentile(lengths, p)) for p in PERCENTILES} | {
      'longest': max(lengths)
    }
  return lengths_of


def _notes(result) -> list[str]:
  """What a reader should know before training."""
  notes, splits = [], result['splits']
  for split, summary in splits.items():
    n = summary['examples']
    if summary['in_train']:
      notes.append(
        f'{summary["in_train"]:,} of {n:,} examples of {split} stand in train too, with the same inputs.'
      )
    if summary['duplicates']:
      notes.append(
        f'{summary["duplicates"]:,} of {n:,} examples of {split} have the inputs of another in it.'
      )
    if summary.get('unlabelled'):
      notes.append(f'{summary["unlabelled"]:,} of {n:,} examples of {split} have no label.')
    if empty := [name for name, count in summary.get('labels', {}).items() if not count]:
      more = f' … ({len(empty)} in all)' if len(empty) > 5 else ''
      notes.append(f'no example of {split} has the class {", ".join(map(repr, empty[:5]))}{more}.')
    for key, lengths in summary['texts'].items():
      if lengths['99 %'] > result['text_length']:
        notes.append(
          f'{split}: more than 1 % of {key!r} are longer than data.text_length, {result["text_length"]} '
          f'tokens, and are cut; 99 % have at most {lengths["99 %"]}.'
        )
  numbers = splits['train'].get('numbers')
  if numbers and numbers['std'] and result['task'] == 'regression':
    notes.append(
      f'labels of train have mean {numbers["mean"]:.4g} and deviation {numbers["std"]:.4g}: '
      f'--config.task.offset={numbers["mean"]:.4g} --config.task.scale={numbers["std"]:.4g} brings them '
      'to 0 and 1.'
    )
  return notes


def tables(result: Mapping[str, Any]) -> list[dict]:
  """Its tables, as `report.page` has them: a title and rows of texts."""
  splits = result['splits']
  rows = [
    {
      'split': split,
      'examples': f'{s["examples"]:,}',
      'without label': f'{s["unlabelled"]:,}' if 'unlabelled' in s else '–',
      'in train too': f'{s["in_train"]:,}' if split != 'train' else '',
      'twice': f'{s["duplicates"]:,}',
    }
    for split, s in splits.items()
  ]
  tables = [{'title': 'Splits', 'rows': rows}]
  keys = splits['train']['keys']
  tables.append(
    {'title': 'Arrays of an example', 'rows': [{'key': k, 'type and shape': v} for k, v in keys.items()]}
  )
  counts = {s: x['labels'] for s, x in splits.items() if 'labels' in x}
  if counts:
    names = list(dict.fromkeys(name for x in counts.values() for name in x))
    most = sorted(names, key=lambda name: -counts.get('train', {}).get(name, 0))[:SHOWN]
    title = 'Labels' if len(names) <= SHOWN else f'Labels, the {SHOWN} most frequent of {len(names):,}'
    shown = [{'class': name} | {s: f'{x.get(name, 0):,}' for s, x in counts.items()} for name in most]
    tables.append({'title': title, 'rows': shown})
  numbers = {s: x['numbers'] for s, x in splits.items() if x.get('numbers')}
  texts = {f'{s}: {k}': v for s, x in splits.items() for k, v in x['texts'].items()}
  missing = {s: x['missing'] for s, x in splits.items() if x['missing']}
  for title, first, part in (('Labels', 'split', numbers), ('Tokens of a text', 'text', texts)):
    body = [{first: name} | {k: _number(v) for k, v in x.items()} for name, x in part.items()]
    tables += [{'title': title, 'rows': body}] if body else []
  body = [{'split': s} | {k: f'{100 * v:.1f} %' for k, v in x.items()} for s, x in missing.items()]
  return tables + ([{'title': 'Missing modalities', 'rows': body}] if body else [])


def _number(value):
  return f'{value:,}' if isinstance(value, int) else f'{value:.4g}'


def cards(data: load.Data) -> list[dict]:
  """Examples of train, evenly spaced, with their labels."""
  examples, classes, cards = splits_.examples_of(data.dataset, 'train'), data.dataset.classes, []
  for i in np.unique(np.linspace(0, len(examples) - 1, min(len(examples), CARDS)).astype(int)):
    example = examples[int(i)]
    card = {k: example[k] for k in ('text', 'audio') if k in example}
    if 'image' in example and np.asarray(example['image']).ndim == 3:
      card['image'] = example['image']
    if 'audio' in card and np.asarray(card['audio']).ndim != 1:
      del card['audio']
    label = np.asarray(example.get('label', -1))
    if label.ndim:
      truth = ', '.join(classes[j] for j in np.flatnonzero(label > 0)[:5]) or 'none'
    elif label.dtype.kind == 'f':
      truth = f'{label:.4g}'
    else:
      truth = classes[int(label)] if 0 <= label < len(classes) else '–'
    cards.append(card | {'truth': truth})
  return cards


def show(config: Mapping[str, Any], workdir: Path, data_dir: str | None = None, cache: str = '') -> dict:
  """Prints the summary, and writes it as `data.html` into the workdir. Returns it.

  Raises:
    KdjaxError: as `summarise` does.
  """
  result, data = _read(config, workdir, data_dir, cache)
  for one in tables(result):
    table = Table(title=Text(one['title']), title_justify='left', box=None, padding=(0, 2))
    for i, column in enumerate(one['rows'][0]):
      table.add_column(Text(column), justify='right' if i else 'left', overflow='fold')
    for row in one['rows']:
      table.add_row(*map(Text, row.values()))
    progress.console.print(table)
    progress.console.print()
  for note in result['notes']:
    progress.say(note)
  path = report.write_data(result, tables(result), cards(data), workdir)
  progress.say(f'page: {path}')
  return result
