"""`python -m slowfast_uniformer COMMAND` is `uniformer COMMAND`."""

from slowfast_uniformer.cli.main import main

if __name__ == "__main__":
    main()
