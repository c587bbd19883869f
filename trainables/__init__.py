"""The only code that drives Ray: trials, studies, pre-training, the command line."""
