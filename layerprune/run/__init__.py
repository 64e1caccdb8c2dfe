"""Turn a configuration into records: jobs, claims, the pipeline, and its progress."""
