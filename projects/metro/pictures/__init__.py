"""Pictures of meshes: rasteriser, views, attention and mesh files."""
