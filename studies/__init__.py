"""One short file a question; run any as `python -m studies.<name>`."""
