"""Healing recipes: one file each, with the options, their checks and the preparation of the model.

A recipe is a subclass of `HealOptions`, registered as `heal=NAME`. One that trains is a subclass of
`TrainingOptions` with a method `prepare`; any other changes the weights in `solve`.
"""
