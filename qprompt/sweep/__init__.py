"""Many runs of ``train.py`` from one spec.

A spec is read (`spec`), planned into runs (`plan`), compared with what is finished (`record`), and run on this
machine (`pool`, over `slots`) or on a cluster (`slurm`).
"""
