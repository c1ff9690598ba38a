"""What the studies `when_*` share: one thing changed in the recipes of three tasks, all else as they are."""

from collections.abc import Callable, Mapping

from kdjax.paper_tables import MEASURES, Cell, Table
from kdjax.recipes import Config

from . import av_digits, quickstart, sst2

TASKS = {
  'Questions about pictures': (quickstart, ''),
  'Spoken digits, taught by pictures and speech': (av_digits, 'student=audio'),
  'Sentiment of sentences': (sst2, ''),
}
STAGES = {'teacher': 'teacher', 'alone': 'baseline', 'distilled': 'student'}
NOTES = (
  'p is of a paired t-test over the seeds, of the distilled student against the same student alone.',
  'Everything but the one thing is as in the recipe, which was tuned at its own value of it: learning rates, '
  'weights of the methods and steps were not chosen anew for each row.',
)


def study(
  name: str,
  title: str,
  scale: str,
  values: Mapping[str, Callable[[Config], None]],
  notes: tuple[str, ...] = (),
  own_teachers: bool = False,
) -> Table:
  """A panel for each task, a row for each value.

  Args:
    name: of the table.
    title: what it shows.
    scale: of the table.
    values: row -> what changes the config of a recipe.
    notes: beside those of all studies.
    own_teachers: whether each row has a teacher of its own; else a task has one.
  """
  experiments, panels, teachers = {}, {}, {}
  for task, (recipe, argument) in TASKS.items():
    extra = {'smoke': 'smoke=1', 'paper': 'scale=gpu' if recipe is not quickstart else ''}.get(scale, '')
    panels[task], first = {}, ''
    for row, change in values.items():
      config = recipe.get_config(','.join(filter(None, (argument, extra))))
      change(config)
      key = f'{task}, {row}'
      experiments[key] = config
      if first and not own_teachers:
        teachers[key] = first
      first = first or key
      panels[task][row] = {column: Cell((key,), stage) for column, stage in STAGES.items()}
  return Table(
    name=name,
    title=title + (': smoke' if scale == 'smoke' else ''),
    paper='none: a study of kdjax',
    source='none',
    experiments=experiments,
    panels=panels,
    measures={'top1': MEASURES['top1']},
    teachers=teachers,
    notes=(*notes, *NOTES),
  )
