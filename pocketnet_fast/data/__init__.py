"""Images for training: record files and what they hold."""
