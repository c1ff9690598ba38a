"""Methods that learn from several teachers, whose taps are called `<teacher>/<tap>`."""
