"""Studies: one file says what is varied; every point is trained, priced in cycles and fabric, kept and reported.

`schema` reads the file, `space` and `setting` make of it what each trial is trained with, `points` lists them, `trial`
trains one, `store` keeps all in Optuna's storage, `search` chooses the next, `runner` runs what is not done, `area`
synthesises cores, `table`, `figures` and `writing` show what came of it.
"""
