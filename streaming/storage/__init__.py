"""Storage: reads and writes bytes at URIs, on local disks and on S3, with conditional writes."""
