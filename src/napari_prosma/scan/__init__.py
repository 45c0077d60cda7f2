"""What Segment and Gates share: the choice of a scan, a model and a part."""
