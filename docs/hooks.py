"""What mkdocs makes for the site beside the pages: the reference, and links to files outside `docs/`."""

import posixpath
import re
import sys
from collections import defaultdict
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from kdjax import options, registry, settings  # noqa: E402

SOURCE = 'https://github.com/kdjax/kdjax/blob/main/'
PYTHON = """# Python

::: kdjax.api.distill.distill

::: kdjax.api.models.load

::: kdjax.api.models.host

::: kdjax.api.models.weights

::: kdjax.api.result.Result

::: kdjax.nn.losses

::: kdjax.recipes

::: kdjax.types
"""


def on_files(files, config):
  """Adds the pages of the reference to those in `docs/`."""
  pages = {'reference/python.md': PYTHON, 'reference/recipe.md': recipe()}
  pages |= {'changes.md': (ROOT / 'CHANGELOG.md').read_text(encoding='utf-8').replace('](docs/', '](')}
  pages |= {f'reference/methods/{name}.md': page for name, page in methods().items()}
  for path, text in pages.items():
    files.append(File.generated(config, path, content=text))
  return files


def recipe() -> str:
  """The keys of a recipe, a table a section."""
  sections = defaultdict(list)
  for key, annotation in settings.leaves():
    sections[key.partition('.')[0] if '.' in key else ''].append(
      f'| `{key}` | {cell(options.describe(annotation))} | {cell(settings.meaning(annotation))} |'
    )
  parts = [
    '# Keys of a recipe\n\n`python run.py config --config=…` prints the same, with the values of a recipe.\n'
  ]
  for name, rows in sections.items():
    parts.append(
      '\n'.join([f'## {name or "Top level"}\n', '| key | type | meaning |', '|---|---|---|', *rows]) + '\n'
    )
  return '\n'.join(parts)


def cell(text: str) -> str:
  return text.replace('|', r'\|')


def methods() -> dict[str, str]:
  """family -> the page of its methods, each from its docstring; and the 'index' of all."""
  families = defaultdict(list)
  for entry in registry.listing('methods'):
    families[entry.family].append(entry)
  pages, index = {}, ['# Formulas and options\n']
  for family, entries in families.items():
    title = family.replace('_', ' ').capitalize()
    index.append(
      f'- [{title}]({family}.md): ' + ', '.join(f'[`{e.name}`]({family}.md#{e.name})' for e in entries)
    )
    pages[family] = f'# {title}\n\n' + '\n'.join(map(method, entries))
  return pages | {'index': '\n'.join(index) + '\n'}


def method(entry: registry.Entry) -> str:
  """A method by its docstring, below a heading that other pages link to."""
  path = registry.names('methods')[entry.name]
  weight = registry.module('methods', entry.name).WEIGHT
  options_ = '\n'.join(f'      {line}' for line in ('show_root_heading: false', 'show_root_toc_entry: false'))
  return f"""## {entry.name} {{ #{entry.name} }}

{entry.line} Weight {weight:g}; [source]({SOURCE}{path.replace('.', '/')}.py).

::: {path}.{entry.name}
    options:
{options_}
"""


def on_page_markdown(markdown, page, config, files):
  """Links to files outside `docs/` lead to the repository."""

  def outside(match):
    target = posixpath.normpath(posixpath.join('docs', posixpath.dirname(page.file.src_uri), match[1]))
    return match[0] if target.startswith('docs/') else f']({SOURCE}{target})'

  return re.sub(r'\]\((\.\./[^)#]*)\)', outside, markdown)
