"""Is everything fit for a study, and is anything left over from earlier ones?

Run:     python -m studies.doctor --address auto --tracking-uri http://HEAD:5000 --output /shared/results
Cost:    seconds a node; nothing is trained.

Give it the flags that the study will get. It says what to do about every problem, and repairs what dead studies left in
MLflow; a study that is running is left alone. Exit code 0: no problem; 1: some; 2: input refused.
"""

from trainables.doctor import main

if __name__ == "__main__":
    main()
