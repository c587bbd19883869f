"""Does a trial give the same curves again, here and now?

Run:     python -m studies.rerun --run RUN_ID
Cost:    that of the trial.

RUN_ID is the trial's run in MLflow; `trials.parquet` of a study lists them. The new run is in the experiment
`STUDY-rerun`, with the tag `rerun_of`. Exit code 0: every curve is the same; 1: something differs.
"""

from trainables.rerun import main

if __name__ == "__main__":
    main()
