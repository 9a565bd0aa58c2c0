"""Face crops as data: decoding, alignment, record files, datasets, augmentation, batches."""
