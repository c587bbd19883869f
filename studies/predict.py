"""What does a finished trial see in new pictures?

Run:     python -m studies.predict --run RUN_ID --images DIR
Cost:    seconds a picture on a CPU.

RUN_ID is the trial's run in MLflow; `trials.parquet` of a study lists them.
"""

from trainables.predictor import main

if __name__ == "__main__":
    main()
