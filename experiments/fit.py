"""The smallest model within a budget, from Python.

    python experiments/fit.py

The same as `python main.py experiment=fit export=hf`, whose points it takes where they are there.
"""

import layerprune

fitted = layerprune.fit("experiment=fit", "export=hf", keep=0.9)
print(f"without layers {fitted.dropped}: {fitted.folder}")
for task, (accuracy, interval) in fitted.accuracies.items():
    print(f"{task}: {accuracy:.3f}, between {interval.low:.3f} and {interval.high:.3f}")
