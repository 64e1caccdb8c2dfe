"""Hands over to `layerprune.app`: `python main.py` and the installed `layerprune` are the same."""

from layerprune.app import main

if __name__ == "__main__":
    main()
