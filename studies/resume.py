"""Go on with every study below a folder of results that a crash or a restart left unfinished.

python -m studies.resume --output /shared/results

A cluster's head runs this when it comes back. Finished trials stay, others go on from their last checkpoint.
"""

from trainables.unfinished import main

if __name__ == "__main__":
    main()
