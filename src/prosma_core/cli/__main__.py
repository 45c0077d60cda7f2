"""`python -m prosma_core.cli`, and so `torchrun -m prosma_core.cli`: the command line."""

from prosma_core.cli.main import program

if __name__ == "__main__":
    program()
