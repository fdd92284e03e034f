"""A model over many pictures, on one machine or on Ray: nothing done twice, nothing lost, whenever it is killed.

- ``inputs``: pictures by folder, list, COCO JSON (``lists``), Parquet (``tables``) or WebDataset (``tars``)
- ``reading``: a listed picture to an array
- ``shards``: shards of pictures through a model to ``parts`` of the result
- ``job``: the parts on the disk, which a run that was killed goes on with
- ``ray_workers``: the same shards on Ray Data
- ``results``: one Parquet file, COCO JSON, the list of broken pictures
- ``run``: ``predict_many``, all of it in one call
- ``identity``: what tells a run from another; also for pseudo labels

Nothing is imported here: pseudo labels need only a part.
"""
