"""Labels that do not depend on the tiling: from predictions to objects, corrections and checks.

==============  ==================================================================================
`recipe`        what turns a prediction into heights, and which objects are kept
`guess`         a recipe to begin with, from what a prediction looks like
`blocks`        how an image is divided for the computation
`basins`        zones, drains and basins of the heights, block by block, joined over faces
`graph`         passes between basins, their minimum spanning tree, and every cut of it
`objects`       sizes, places and intensities of objects
`segmentation`  objects at one setting: counted, painted, measured and written
`curve`         the number of objects at every threshold
`room`          memory or disk for arrays of the image's size
`label_files`   label images on disk
`label_images`  label images of any program: opened, and merged
`edits`         what corrections do to objects
`corrections`   corrections by hand, undone and redone, in a file as they are made
`lines`         the lines of a grid of tiles
`crossings`     what labels show across each line
`grids`         whether changes gather on a grid's lines, and which grid fits best
`false_splits`  objects that seams cut, in labels of any program: `seamscope.find_splits`
`asking`        the network's opinion of such a pair without a seam between
`agreement`     labels against ground truth, at seams and elsewhere
`tile_seams`    where the tiles of a prediction meet, as its plan or its file says
`predicted`     predictions that are made to be segmented, of an image or an area
`findings`      all about the false splits of one label image, before and after merging
`split_views`   pictures of pairs, and what each tile predicts there
`review`        suspicious objects, and crops of corrected places for training
`segment`       all of these in order: `seamscope.segment`
==============  ==================================================================================
"""
