"""The typed configuration of a run, and its composition from YAML."""
