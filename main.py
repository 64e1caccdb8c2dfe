"""Hands over to `layerprune.cli`: `python main.py` and the installed `layerprune` are the same."""

from layerprune.cli import main

if __name__ == "__main__":
    main()
