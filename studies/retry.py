"""Which trials of a study have failed, why, and do they end well when they are run again?

Run:     python -m studies.retry STUDY            (lists them)
         python -m studies.retry STUDY --failed   (runs them again, with the settings of the study's last command)
Cost:    that of the failed trials, each from its last checkpoint.

A failure that repeats itself (a loss that becomes NaN, a damaged picture) will do so until its cause is gone.
"""

from trainables.retry import main

if __name__ == "__main__":
    main()
