"""kdjax from Python: `kdjax.distill`, `kdjax.load`, `kdjax.host`."""
