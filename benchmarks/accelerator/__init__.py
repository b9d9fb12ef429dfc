"""The campaign that measures everything on one accelerator, in pieces of a few minutes.

``tasks`` says what there is to do, ``campaign`` does it in child processes and keeps records,
``report`` makes tables and pictures of the records, ``parts`` cuts checkpoints into small files;
``device`` and ``agreement`` are children.
"""
