"""Prediction of whole archives: any number of cases in bounded memory, here or on a cluster.

| module | what it does |
|---|---|
| ``listing`` | a folder or manifest is cut into shards of cases, each a small file |
| ``streaming`` | one shard goes through an engine; the whole archive, start to end |
| ``workers`` | shards in processes of this machine, which may die |
| ``ray`` | shards on the machines of a Ray cluster (extra ``scale``) |
| ``results`` | what a shard leaves, and how that becomes one table |
| ``maps`` | the maps of all classes, shard by shard |

A shard is the unit of everything: of memory, of writing and of going on. It counts as done from the moment
its ``.done.json`` has its name, which it gets last; whatever was left unfinished is done again from the
beginning of its shard and replaces what was there. So each case is in the result once, whatever was killed
when.
"""
