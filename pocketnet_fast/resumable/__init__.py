"""What a resumable run of epochs is made of, whatever its steps train: folder, progress, log, loop."""
