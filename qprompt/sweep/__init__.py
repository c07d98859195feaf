"""Many runs of ``train.py`` from one spec.

A spec is read (`spec`), expanded (`grid`) and planned into runs (`plan`). They run on this machine (`pool`, over
`slots`) or on a cluster (`slurm`).
"""
