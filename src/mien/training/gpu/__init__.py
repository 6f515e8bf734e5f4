"""The GPU kit: teachers, a student that learns from them, and its report, in one sitting on a GPU.

``make pack-gpu`` packs what a machine without a network lacks, ``make train-gpu`` does the rest
there, in pieces that can be stopped and gone on with. See docs/gpu.md.
"""
