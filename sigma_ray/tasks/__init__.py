"""Tasks: one file each, with the loss and the metric of a dense-prediction task."""
