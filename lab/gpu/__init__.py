"""The GPU kit: teachers, a student that learns from them, and its report, in one sitting on a GPU.

``make lab-pack`` packs what a machine without a network lacks, ``make lab-train`` does the rest
there, in pieces that can be stopped and gone on with. See lab/README.md.
"""
