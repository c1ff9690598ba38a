"""From files to batches: reading, encoding, splits, augmentation."""
