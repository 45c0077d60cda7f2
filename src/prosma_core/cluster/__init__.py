"""Work on several computers: a Dask cluster computes scans, or blocks of a scan."""
