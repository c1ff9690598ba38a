"""What any program needs: files, signals, processes, progress, whose code is run."""
