"""Curricula carried out: on a device and by its float32 twin, with the same mini-batches, beside their baseline.

`schema` reads a file, `prepare` makes what a run learns from, `runner` carries a curriculum out on learners, `device`
is the learner that has a device, `experiment` runs a file's arms over its seeds, `results` and `drawing` show it.
"""
