"""Pictures of meshes: rasteriser, views, pages and mesh files."""
