"""Open-vocabulary semantic segmentation with EBSeg."""
