"""How many parameters does each method train, and does the count agree with the published one?

Run:     python -m studies.parameter_table              (--json for machines, --backbone NAME for another one)
Cost:    seconds; backbones are instantiated without weights.
Decides: whether an implementation is the method that the paper counted.
"""

from trainables.parameters import main
from trainables.published import PUBLISHED

if __name__ == "__main__":
    main(PUBLISHED)
