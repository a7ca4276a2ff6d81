"""Which cells are neighbours, and how far apart: a graph in the AnnData, where squidpy looks for it too.

python examples/neighbours.py OUT/slide [MOST_UM]
"""

import sys

import numpy as np
from scipy import sparse
from scipy.spatial import Delaunay, cKDTree

import wsiproc

folder, most_um = sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 50.0
cells = wsiproc.open(folder).anndata()
um = cells.obsm["spatial"] * cells.uns["wsiproc"]["mpp"]

# Neighbours share an edge of a Delaunay triangle that is not longer than most_um.
triangles = Delaunay(um).simplices
pairs = np.unique(np.sort(triangles[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2)), axis=0)
lengths = np.linalg.norm(um[pairs[:, 0]] - um[pairs[:, 1]], axis=1)
pairs, lengths = pairs[lengths <= most_um], lengths[lengths <= most_um]
one_way = sparse.csr_matrix((lengths, pairs.T), shape=(len(um), len(um)))
cells.obsp["spatial_distances"] = one_way + one_way.T
cells.obsp["spatial_connectivities"] = (cells.obsp["spatial_distances"] > 0).astype(np.float32)
print(f"{len(um)} cells, {2 * len(pairs) / len(um):.2f} neighbours each, {np.median(lengths):.1f} µm away")

# Distances between classes: from each cell to the nearest other one.
for one in cells.obs["class"].cat.categories:
    for other in cells.obs["class"].cat.categories:
        here, there = um[cells.obs["class"] == one], um[cells.obs["class"] == other]
        rank = 2 if one == other else 1
        if len(here) and len(there) >= rank:
            nearest = cKDTree(there).query(here, k=[rank])[0]
            print(f"{one} to {other}: {np.median(nearest):.1f} µm (median)")
