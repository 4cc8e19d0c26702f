"""``python -m ebseg``: the command line, as `accelerate launch` and `torchrun` start it."""

from ebseg.cli import main

if __name__ == "__main__":
    main()
