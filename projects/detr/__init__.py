"""DETR with DropKey on COCO."""
