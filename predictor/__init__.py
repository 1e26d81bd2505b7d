"""Runs one stage's model: a host process that forks predictors, and the predictors, which turn batches into batches.

Law of this folder: it runs inside users' images, next to users' code, on any Python from 3.9 on. Standard library and
numpy only, but in `loaders` (and pyarrow where a stage asks for Arrow); relative imports only, because `launcher`
loads it together with `headrace.local` under one private name, so that no import of a user's code finds anything of it.
"""
